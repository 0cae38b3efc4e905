"""A training that starts from a trained model: which weights it takes, where they are kept, when they are made anew."""

import dataclasses
from pathlib import Path

import pytest
import torch

from autoseg import planning
from autoseg.errors import ModelError
from autoseg.networks import build_network, load_weights, save_weights
from autoseg.networks.checkpoint import weights_digest
from autoseg.options import RunOptions
from autoseg.run_folder import RunFolder, RunRecord
from autoseg.training import initial
from autoseg.training.fold_record import FoldRecord
from autoseg.training.start import put_initial_weights
from autoseg.training.step_downs import keep_step_down
from planners.edit import set_value
from planners.fingerprint import Channel, Fingerprint
from planners.labels import LabelClass, Labels
from planners.plan import Plan
from planners.records import PlanError
from planners.step_down import step_down


def name_labels(*names: str) -> Labels:
    return Labels(classes=tuple(LabelClass(name=name, value=value) for value, name in enumerate(names)))


FINGERPRINT = Fingerprint(
    dataset="old",
    channels=(Channel(name="T1"),),
    labels=name_labels("background", "liver", "spleen"),
    num_cases=9,
    spacings_mm=((1.0, 1.0, 1.0),) * 9,
    shapes=((14, 14, 14),) * 9,
)
NEW = dataclasses.replace(
    FINGERPRINT,
    dataset="new",
    channels=(Channel(name="T2"), Channel(name="T1")),
    labels=name_labels("background", "spleen", "kidney"),
)
OPTIONS = RunOptions(device="cpu", budget_bytes=10**9)


def make_run(root: Path, name: str) -> RunFolder:
    run = RunFolder(root / name)
    run.write(RunRecord(name=name, dataset=f"/{name}", cases=(), started="now"), run.run_file)
    return run


def train(run: RunFolder, plan: Plan, name: str, fold: int | str, *, finished: bool = True) -> dict[str, torch.Tensor]:
    """Pretend that a fold was trained: weights of its own seed."""
    item, folder = plan.configuration(name), run.fold(name, fold)
    seed = 100 + len(str(fold)) + (fold if isinstance(fold, int) else 50)
    network = build_network(item.architecture, item.num_input_channels, item.target.num_outputs, seed)
    save_weights(folder.weights_last, network, {"step": "1"})
    run.write(FoldRecord(configuration="", split="", epochs=1, finished=finished), folder.record)
    return network.state_dict()


@pytest.fixture
def trained(tmp_path: Path) -> RunFolder:
    """Trained in 3D: fold 0 not to its end, folds 1 and 2."""
    run = make_run(tmp_path, "old")
    plan = planning.make_plan(FINGERPRINT, dataclasses.replace(OPTIONS, settings=("3d_fullres.batch_size=2",)))
    run.write(plan, run.plan_file)
    for fold, finished in ((0, False), (1, True), (2, True)):
        train(run, plan, "3d_fullres", fold, finished=finished)
    return run


def options_with(trained: RunFolder, **changes: object) -> RunOptions:
    return dataclasses.replace(OPTIONS, init=trained.root, **changes)


def test_weights_of_the_first_trained_fold_by_name(trained: RunFolder, tmp_path: Path) -> None:
    run = make_run(tmp_path, "new")
    plan = initial.decide(run, NEW, options_with(trained))
    assert [item.name for item in plan.configurations] == ["3d_fullres"], "2d of the model is not trained"
    item = plan.configuration("3d_fullres")
    path = run.initial_weights("3d_fullres")
    assert item.training.initial_weights == weights_digest(path)
    assert (item.training.learning_rate, item.training.warm_up) == (0.001, 50)
    kept, meta = load_weights(path)
    source, _ = load_weights(trained.fold("3d_fullres", 1).weights_last)
    assert meta["from"] == str(trained.fold("3d_fullres", 1).root)
    (entrance,) = (name for name, value in source.items() if name.startswith("encoder.0.0.") and value.dim() == 5)
    assert torch.equal(kept[entrance][:, 1], source[entrance][:, 0] / 2), "T1, beside a channel of its mean"
    deeper = [name for name in source if name.startswith("encoder.1")]
    assert deeper
    for name in deeper:
        assert torch.equal(kept[name], source[name])
    heads = [name for name in source if name.startswith("heads.0")]
    for name in heads:
        assert torch.equal(kept[name][:2], source[name][[0, 2]]), "background and spleen"
    network = build_network(item.architecture, 2, 3, 5)
    put_initial_weights(network, run, item)
    assert all(torch.equal(value, kept[name]) for name, value in network.state_dict().items())


def test_the_table_is_said_and_logged(trained: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path, "new")
    initial.decide(run, NEW, options_with(trained))
    said = capsys.readouterr().err
    assert "3d_fullres starts from 3d_fullres of" in said
    for status in ("matched", "adapted"):
        assert status in said
    assert '"event": "initial weights"' in run.log_file.read_text()


def test_the_same_start_changes_nothing(trained: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, options = make_run(tmp_path, "new"), options_with(trained)
    plan = initial.decide(run, NEW, options)
    files = [run.plan_file, run.initial_weights("3d_fullres")]
    before = [path.read_bytes() for path in files]
    capsys.readouterr()
    assert initial.decide(run, NEW, options) == plan
    assert [path.read_bytes() for path in files] == before
    assert not capsys.readouterr().err, "neither planned anew, nor edited by hand, nor matched again"
    run.initial_weights("3d_fullres").unlink()
    assert initial.decide(run, NEW, options) == plan
    assert [path.read_bytes() for path in files] == before


def test_another_model_is_another_start(trained: RunFolder, tmp_path: Path) -> None:
    run = make_run(tmp_path, "new")
    first = initial.decide(run, NEW, options_with(trained))
    given = dataclasses.replace(OPTIONS, init=trained.fold("3d_fullres", 2).root)
    second = initial.decide(run, NEW, given)
    digests = [plan.configuration("3d_fullres").training.initial_weights for plan in (first, second)]
    assert digests[0] != digests[1]
    assert load_weights(run.initial_weights("3d_fullres"))[1]["from"] == str(trained.fold("3d_fullres", 2).root)


def test_another_network_gets_weights_that_fit_it(trained: RunFolder, tmp_path: Path) -> None:
    run, options = make_run(tmp_path, "new"), options_with(trained)
    plan = initial.decide(run, NEW, options)
    edited = set_value(plan, "3d_fullres.architecture.stages.1.features", "48")
    run.write(edited, run.plan_file)
    after = initial.decide(run, NEW, options)
    item = after.configuration("3d_fullres")
    assert item.training.initial_weights != plan.configuration("3d_fullres").training.initial_weights
    put_initial_weights(build_network(item.architecture, 2, 3, 0), run, item)


def test_a_network_made_smaller_since_takes_what_still_fits(trained: RunFolder, tmp_path: Path, capsys) -> None:
    """A step down for want of memory may take a stage away; the weights were kept for the network before."""
    run = make_run(tmp_path, "new")
    item = initial.decide(run, NEW, options_with(trained)).configuration("3d_fullres")
    deepest = len(item.architecture.stages) - 1
    narrow = (*item.architecture.stages[:deepest], dataclasses.replace(item.architecture.stages[deepest], features=24))
    smaller = dataclasses.replace(item, architecture=dataclasses.replace(item.architecture, stages=narrow))
    network = build_network(smaller.architecture, 2, 3, 0)
    with pytest.raises(ModelError, match="do not fit the network"):
        put_initial_weights(network, run, smaller)
    plan = run.read(Plan, run.plan_file)
    keep_step_down(run, plan, step_down(plan, item.name, "it did not fit"), item.name)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    put_initial_weights(network, run, smaller)
    kept, _ = load_weights(run.initial_weights("3d_fullres"))
    after = network.state_dict()
    assert torch.equal(after["encoder.0.0.conv.weight"], kept["encoder.0.0.conv.weight"])
    changed = f"encoder.{deepest}.0.conv.weight"
    assert torch.equal(after[changed], before[changed])
    assert "parts start without weights" in capsys.readouterr().err


def test_a_plan_of_the_users_own_takes_what_fits(trained: RunFolder, tmp_path: Path) -> None:
    own = planning.make_plan(NEW, dataclasses.replace(OPTIONS, settings=("3d_fullres.batch_size=3",)))
    file = tmp_path / "own.json"
    RunFolder(tmp_path).write(own, file)
    run = make_run(tmp_path, "new")
    plan = initial.decide(run, NEW, options_with(trained, plan=file, configurations=("3d_fullres",)))
    assert plan.configuration("3d_fullres").batch_size == 3
    assert plan.configuration("3d_fullres").training.initial_weights
    assert not plan.configuration("2d").training.initial_weights
    with pytest.raises(ModelError, match="has no weights that 2d could start from, only 3d_fullres"):
        initial.decide(make_run(tmp_path, "again"), NEW, options_with(trained, plan=file))


def test_a_cascade_starts_from_what_is_alike(trained: RunFolder, tmp_path: Path) -> None:
    run = make_run(tmp_path, "new")
    settings = ("high.inherits=3d_fullres", "high.previous=3d_fullres")
    plan = initial.decide(run, NEW, options_with(trained, settings=settings, configurations=("high",)))
    assert all(item.training.initial_weights for item in plan.configurations)
    high = plan.configuration("high")
    put_initial_weights(build_network(high.architecture, high.num_input_channels, 3, 0), run, high)


def test_a_wrong_part_to_freeze_is_told_at_once(trained: RunFolder, tmp_path: Path) -> None:
    run = make_run(tmp_path, "new")
    with pytest.raises(PlanError, match="no part of the network is named 'encodr'"):
        initial.decide(run, NEW, options_with(trained, freeze=("encodr",)))
    plan = initial.decide(run, NEW, options_with(trained, freeze=("encoder",)))
    assert plan.configuration("3d_fullres").training.frozen == ("encoder",)


def test_nothing_to_start_from(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no/model does not exist. Give a run folder of autoseg, or a model folder"):
        initial.open_model(Path("no/model"))
    with pytest.raises(ModelError, match=r"holds neither a plan.json nor a model of nnU-Net v2"):
        initial.open_model(tmp_path)
    run = make_run(tmp_path, "bare")
    run.write(planning.make_plan(FINGERPRINT, OPTIONS), run.plan_file)
    with pytest.raises(ModelError, match="holds no fold that is trained to its end"):
        initial.open_model(run.root)
