"""Checks that save days: the first loss, a network stuck in the background, the hardest cases, two cases by heart."""

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from autoseg.errors import RunFolderError
from autoseg.evaluation.case_losses import CaseLosses
from autoseg.evaluation.overlap import CaseScore
from autoseg.preprocessing.store import StoredCase
from autoseg.run_folder import RunFolder, records_from
from autoseg.training import overfit as overfitting
from autoseg.training.case_losses import measure_case_losses
from autoseg.training.collapse import collapsed_for, empty_text, missed_text, patience
from autoseg.training.first_loss import first_loss
from autoseg.training.fold_state import read_progress
from autoseg.training.folds import fold_job, train_and_validate
from autoseg.training.overfit import overfit
from autoseg.training.sampling import Batch
from autoseg.training.trainer import FoldJob, FoldTrainer
from planners.plan import Plan

MakeRun = Callable[..., RunFolder]


def start(make_run: MakeRun, **training: object) -> FoldJob:
    return fold_job(make_run(**{"epochs": 1, "steps_per_epoch": 2, "validation_steps": 1, **training}), "tiny", 0)


def compare(trainer: FoldTrainer, scale: float = 1.0) -> float:
    batch = trainer.source(trainer.job.train_cases, augment=False).batch(0, 0)
    batch = Batch(image=batch.image * scale, label=batch.label, case_ids=batch.case_ids)
    found = first_loss(trainer.network, batch, trainer.target, trainer.strides, trainer.output_weights, trainer.compute)
    assert found.num_outputs == 3
    return found.found - found.undecided


def test_an_undecided_network_has_ln_k(make_run: MakeRun) -> None:
    trainer = FoldTrainer(start(make_run, loss="cross-entropy"))
    with torch.no_grad():
        for head in trainer.network.heads:
            head.conv.weight.zero_()
            head.conv.bias.zero_()
    batch = trainer.source(trainer.job.train_cases, augment=False).batch(0, 0)
    found = first_loss(trainer.network, batch, trainer.target, trainer.strides, trainer.output_weights, trainer.compute)
    assert found.found == pytest.approx(math.log(3), abs=1e-6)
    assert found.undecided == pytest.approx(math.log(3), abs=1e-6)
    assert not found.is_far


def test_random_weights_are_not_far(make_run: MakeRun) -> None:
    for seed in range(8):
        assert compare(FoldTrainer(start(make_run, seed=seed, folder=f"run{seed}"))) < 2.0


def test_a_far_first_loss_is_told_with_what_to_do(make_run: MakeRun, capsys: pytest.CaptureFixture[str]) -> None:
    trainer = FoldTrainer(start(make_run))
    with torch.no_grad():
        for head in trainer.network.heads:
            head.conv.weight.mul_(100)
    trainer.check_first_loss()
    assert "That is far off: look at the intensities after normalization" in capsys.readouterr().err
    (row,) = (json.loads(line) for line in trainer.job.run.log_file.read_text().splitlines() if "first-loss" in line)
    assert "far off" in row["because"]
    assert row["found"] > row["undecided"] + 2


def test_looking_at_the_first_loss_changes_nothing(make_run: MakeRun) -> None:
    trainer = FoldTrainer(start(make_run))
    before = {name: value.clone() for name, value in trainer.network.state_dict().items()}
    state = torch.random.get_rng_state()
    trainer.check_first_loss()
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(torch.equal(value, before[name]) for name, value in trainer.network.state_dict().items())


def test_only_a_start_from_nothing_is_looked_at(make_run: MakeRun, capsys: pytest.CaptureFixture[str]) -> None:
    job = start(make_run)
    FoldTrainer(job).run()
    assert "loss before the first step" in capsys.readouterr().err
    longer = dataclasses.replace(job.configuration.training, epochs=2)
    FoldTrainer(dataclasses.replace(job, configuration=dataclasses.replace(job.configuration, training=longer))).run()
    assert "loss before the first step" not in capsys.readouterr().err


def rows(*predicted: list[int] | None, dice: list[float | None] | None = None) -> list[dict[str, object]]:
    return [{"predicted_voxels": item, "dice": [0.0, 0.0] if dice is None else dice} for item in predicted]


def test_a_collapse_is_counted_from_the_end() -> None:
    assert collapsed_for([]) == 0
    assert collapsed_for(rows([0, 0], [0, 0])) == 2
    assert collapsed_for(rows([0, 0], [5, 0], [0, 0])) == 1
    assert collapsed_for(rows([0, 0], None, [0, 0])) == 1, "rows of older runs do not know"
    assert collapsed_for(rows([0, 0], dice=[None, None])) == 0, "no foreground was there to be found"
    assert collapsed_for([{"predicted_voxels": [], "dice": []}]) == 0, "no validation"
    assert [patience(epochs) for epochs in (2, 20, 1000)] == [3, 4, 10]


def test_a_network_stuck_in_the_background_is_named_once(make_run: MakeRun, capsys: pytest.CaptureFixture[str]) -> None:
    job = start(make_run, epochs=5, learning_rate=1e-9, steps_per_epoch=1)
    trainer = FoldTrainer(job)
    with torch.no_grad():
        for head in trainer.network.heads:
            head.conv.weight.zero_()
            head.conv.bias.copy_(torch.tensor([9.0, 0.0, 0.0]))
    trainer.run()
    said = capsys.readouterr().err
    assert said.count("tiny fold 0: for 3 epochs the network has predicted background alone") == 1
    assert '"event": "collapse"' in job.run.log_file.read_text()
    assert all(row["predicted_voxels"] == [0, 0] for row in read_progress(job.folder))


def test_classes_never_predicted_are_named() -> None:
    assert missed_text("f", ["liver", "spleen"], [5, 5], [4, 3]) == ""
    assert missed_text("f", ["liver", "spleen"], [5, 0], [4, 0]) == "", "not there, not missed"
    assert "predicted no spleen in any validation case" in missed_text("f", ["liver", "spleen"], [5, 2], [4, 0])
    assert "predicted no foreground at all" in missed_text("f", ["liver", "spleen"], [5, 2], [0, 0])
    assert "predicted no liver in" in missed_text("f", ["liver"], [5], [0])


def test_the_case_with_a_wrong_label_has_the_highest_loss(make_run: MakeRun) -> None:
    job = start(make_run, epochs=1)
    FoldTrainer(job).run()
    found = measure_case_losses(job)
    assert found == records_from(CaseLosses, job.folder.case_losses)
    assert {(item.case, item.part) for item in found.cases} == {
        *((case.id, "train") for case in job.train_cases),
        *((case.id, "validation") for case in job.validation_cases),
    }
    losses = [item.loss for item in found.cases]
    assert losses == sorted(losses, reverse=True)
    assert measure_case_losses(job) == found, "the same patches every time"


def test_case_losses_are_the_training_loss(make_run: MakeRun) -> None:
    job = start(make_run, epochs=1)
    trainer = FoldTrainer(job)
    trainer.run()
    found = {item.case: item.loss for item in measure_case_losses(job).cases}
    case = job.train_cases[1]
    configuration = dataclasses.replace(job.configuration, batch_size=2)
    trainer.job = dataclasses.replace(job, configuration=configuration)
    batch = trainer.source([case], augment=False).batch(0, 0)
    with torch.no_grad():
        outputs = trainer.network.eval()(batch.image)
    maps, weights = trainer.target.encode(batch.label, trainer.strides[:1])
    loss = trainer.target.loss(outputs[:1], maps, weights, [1.0])
    assert found[case.id] == pytest.approx(float(loss), rel=1e-5)


def test_case_losses_take_a_little_time_only(make_run: MakeRun) -> None:
    job = start(make_run, epochs=1)
    FoldTrainer(job).run()
    ticks = iter(range(0, 1000, 6))
    found = measure_case_losses(job, clock=lambda: float(next(ticks)))
    assert len(found.cases) == 2, "twelve seconds, of the ten there are"
    assert found.num_left_out == 2


def test_case_losses_keep_the_precision_that_training_ended_with(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = start(make_run, epochs=1)
    FoldTrainer(job).run()
    half = dataclasses.replace(job, compute=dataclasses.replace(job.compute, precision="bf16"))
    assert measure_case_losses(half) == measure_case_losses(job), "the state says fp32"


def test_a_trained_fold_leaves_the_losses_of_its_cases(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(epochs=1, steps_per_epoch=1, validation_steps=1)
    monkeypatch.setattr("autoseg.training.folds._needs_validation", lambda *_: False)
    train_and_validate(run, "tiny", 0)
    assert run.fold("tiny", 0).case_losses.exists()


def easy(run: RunFolder) -> None:
    """Make the stored images tell the label outright."""
    for path in run.store("tiny").glob("*.labels.npy"):
        image_path = path.with_name(path.name.replace(".labels.", ".image."))
        label, image = np.load(path), np.load(image_path)
        np.save(image_path, np.broadcast_to(label[:1].astype(image.dtype), image.shape).copy())


def test_two_easy_cases_are_learnt_by_heart(make_run: MakeRun) -> None:
    run = make_run(learning_rate=0.02)
    easy(run)
    before = sorted(path for path in run.root.rglob("*"))
    found = overfit(run)
    assert found.is_learnt, found.text()
    assert len(found.cases) == 2
    assert "Learnt by heart" in found.text()
    assert sorted(path for path in run.root.rglob("*")) == before, "nothing is written into the run"


def test_what_is_learnt_by_heart_is_not_mirrored(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    """The networks see no mirrored image here, so prediction may not average over mirrored ones."""
    seen: list[tuple[int, ...]] = []

    def logits(job: FoldJob, network: torch.nn.Module, case: StoredCase) -> np.ndarray:
        seen.append(job.configuration.training.mirror_axes)
        return np.zeros((3, *case.shape), np.float32)

    monkeypatch.setattr(overfitting, "case_logits", logits)
    monkeypatch.setattr(overfitting, "STEPS_PER_ROUND", 1)
    overfit(make_run(), "tiny", most_rounds=1)
    assert seen == [(), ()]


def test_what_cannot_be_learnt_is_told(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overfitting, "STEPS_PER_ROUND", 1)
    run = make_run()
    found = overfit(run, "tiny", most_rounds=1)
    assert not found.is_learnt
    assert "above 0.95 was expected. Look at these cases" in found.text()


def test_overfitting_recovers_from_a_loss_scale_too_high(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    scales: list[float] = []

    def step(self: FoldTrainer, batch: Batch) -> float | None:
        scales.append(self.counters.loss_scale)
        return None if self.counters.loss_scale > 4 else 0.5

    monkeypatch.setattr(FoldTrainer, "step", step)
    monkeypatch.setattr("autoseg.training.trainer.first_loss_scale", lambda precision: 16.0)
    overfit(make_run(), "tiny", most_rounds=1)
    assert scales[:4] == [16.0, 8.0, 4.0, 4.0]


def test_overfitting_needs_a_store(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run()
    bare = RunFolder(tmp_path / "bare")
    bare.write(run.read(Plan, run.plan_file), bare.plan_file)
    with pytest.raises(RunFolderError, match=r"holds no preprocessed cases of tiny\. Run `autoseg run DATASET --until"):
        overfit(bare)


def score_of(case: str, labelled: tuple[int, ...], predicted: tuple[int, ...]) -> CaseScore:
    nothing = (None,) * len(labelled)
    zeros = (0,) * len(labelled)
    return CaseScore(
        case=case, dice=nothing, iou=nothing, mean_dice=None, tp=zeros, fp=zeros, fn=zeros, tn=zeros,
        num_predicted=predicted, num_labelled=labelled,
    )  # fmt: skip


def test_empty_predictions_are_named_with_their_cases() -> None:
    rows = [
        score_of("small", (5, 0), (0, 0)),
        score_of("large", (900, 600), (0, 0)),
        score_of("found", (7, 7), (1, 0)),
        score_of("healthy", (0, 0), (0, 0)),
    ]
    text = empty_text("2d fold 0", rows)
    assert "2 of 4 validation cases" in text
    assert "large (1,500 labelled voxels), small (5 labelled voxels)" in text
    assert "healthy" not in text
    assert empty_text("2d fold 0", rows[2:]) == ""
    many = empty_text("2d fold 0", [score_of(f"c{number}", (9,), (0,)) for number in range(8)])
    assert many.count("labelled voxels)") == 5
    assert "and 3 more" in many
