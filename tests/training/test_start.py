"""What a training starts from: given weights, and parts that stay as they are."""

import dataclasses
from collections.abc import Callable

import pytest
import torch
from safetensors.torch import load_file

from autoseg.errors import ModelError, RunFolderError
from autoseg.networks import build_network, save_weights
from autoseg.networks.checkpoint import weights_digest
from autoseg.run_folder import RunFolder
from autoseg.training.fold_state import read_progress
from autoseg.training.folds import fold_job
from autoseg.training.trainer import FoldJob, FoldTrainer
from planners.plan import Configuration
from planners.records import PlanError

MakeRun = Callable[..., RunFolder]


def network_of(configuration: Configuration, seed: int) -> torch.nn.Module:
    return build_network(configuration.architecture, configuration.num_input_channels, 3, seed=seed)


def changed(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    return {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}


def start(make_run: MakeRun, **training: object) -> FoldJob:
    return fold_job(make_run(**{"epochs": 1, "steps_per_epoch": 3, "validation_steps": 1, **training}), "tiny", 0)


def with_initial_weights(job: FoldJob, seed: int = 99, digest: str | None = None) -> FoldJob:
    path = job.run.initial_weights("tiny")
    save_weights(path, network_of(job.configuration, seed), {})
    training = dataclasses.replace(job.configuration.training, initial_weights=digest or weights_digest(path))
    return dataclasses.replace(job, configuration=dataclasses.replace(job.configuration, training=training))


def test_frozen_parts_stay_bit_for_bit_and_the_rest_learns(make_run: MakeRun) -> None:
    job = start(make_run, frozen=("encoder", "upsample"))
    trainer = FoldTrainer(job)
    before = {name: value.clone() for name, value in trainer.network.state_dict().items()}
    trainer.run()
    assert changed(before, trainer.network.state_dict()) == {"decoder", "heads"}
    trained = {id(parameter) for group in trainer.optimizer.param_groups for parameter in group["params"]}
    for name, parameter in trainer.network.named_parameters():
        frozen = name.split(".")[0] in ("encoder", "upsample")
        assert (id(parameter) in trained) != frozen
        assert (parameter.grad is None) == frozen


def test_frozen_parts_are_named_by_whole_words(make_run: MakeRun) -> None:
    trainer = FoldTrainer(start(make_run, frozen=("encoder.1",)))
    fixed = {name for name, parameter in trainer.network.named_parameters() if not parameter.requires_grad}
    assert fixed
    assert all(name.startswith("encoder.1.") for name in fixed)
    with pytest.raises(PlanError, match=r"no part of the network is named 'enc'; there are encoder, upsample, decoder"):
        FoldTrainer(start(make_run, frozen=("enc",), epochs=2))


def test_a_network_frozen_whole_is_refused(make_run: MakeRun) -> None:
    with pytest.raises(PlanError, match=r"tiny\.training\.frozen: .* is the whole network; leave a part to train"):
        FoldTrainer(start(make_run, frozen=("encoder", "upsample", "decoder", "heads")))


def test_initial_weights_are_where_training_starts(make_run: MakeRun) -> None:
    job = with_initial_weights(start(make_run, learning_rate=1e-12, weight_decay=0.0))
    FoldTrainer(job).run()
    trained, given = load_file(job.folder.weights_last), network_of(job.configuration, 99).state_dict()
    for name, value in given.items():
        torch.testing.assert_close(trained[name], value, atol=1e-8, rtol=0)
    seeded = network_of(job.configuration, 0).state_dict()
    assert not torch.allclose(trained["encoder.0.0.conv.weight"], seeded["encoder.0.0.conv.weight"])


def test_other_or_missing_initial_weights_are_refused(make_run: MakeRun) -> None:
    job = with_initial_weights(start(make_run), digest="0123456789abcdef")
    found = weights_digest(job.run.initial_weights("tiny"))
    with pytest.raises(RunFolderError, match=rf"has digest {found}, but the plan starts tiny from 0123456789abcdef"):
        FoldTrainer(job).run()
    job.run.initial_weights("tiny").unlink()
    with pytest.raises(RunFolderError, match=r"init/tiny\.safetensors is missing"):
        FoldTrainer(job).run()


def test_initial_weights_of_another_network_are_refused(make_run: MakeRun) -> None:
    job = start(make_run)
    path = job.run.initial_weights("tiny")
    save_weights(path, build_network(job.configuration.architecture, 2, 3), {})
    training = dataclasses.replace(job.configuration.training, initial_weights=weights_digest(path))
    job = dataclasses.replace(job, configuration=dataclasses.replace(job.configuration, training=training))
    with pytest.raises(ModelError, match="do not fit the network"):
        FoldTrainer(job).run()


def test_a_saved_state_wins_over_initial_weights(make_run: MakeRun) -> None:
    job = with_initial_weights(start(make_run))
    FoldTrainer(job).run()
    trained = load_file(job.folder.weights_last)
    job.run.initial_weights("tiny").unlink()
    longer = dataclasses.replace(job.configuration.training, epochs=2, learning_rate=1e-12, weight_decay=0.0)
    more = dataclasses.replace(job, configuration=dataclasses.replace(job.configuration, training=longer))
    FoldTrainer(more).run()
    torch.testing.assert_close(
        load_file(job.folder.weights_last)["heads.0.conv.weight"], trained["heads.0.conv.weight"], atol=1e-6, rtol=0
    )


def test_warm_up_is_used(make_run: MakeRun) -> None:
    job = start(make_run, epochs=4, steps_per_epoch=1, warm_up=2, learning_rate=0.003)
    FoldTrainer(job).run()
    assert [row["learning_rate"] for row in read_progress(job.folder)][:3] == pytest.approx([0.001, 0.002, 0.003])
