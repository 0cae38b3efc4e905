"""Momentum by the length of a training, and a saved training that goes on with another one."""

import dataclasses
import json
from collections.abc import Callable

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save

from autoseg.run_folder import RunFolder, write_atomic
from autoseg.training.fold_state import Counters, load_counters
from autoseg.training.folds import fold_job
from autoseg.training.momentum import carry_over, fit_momentum
from autoseg.training.schedule import Bend
from autoseg.training.trainer import FoldTrainer
from planners.plan import Training


def test_a_usual_training_keeps_its_momentum() -> None:
    for epochs, steps in ((1000, 250), (10, 250), (50, 50)):
        training = Training(epochs=epochs, steps_per_epoch=steps)
        assert fit_momentum(training) is training


@pytest.mark.parametrize(("steps", "momentum"), [(2499, 0.98999), (500, 0.95), (250, 0.9), (120, 0.9), (1, 0.9)])
def test_a_short_training_takes_less_momentum_at_the_same_step(steps: int, momentum: float) -> None:
    planned = Training(epochs=1, steps_per_epoch=steps)
    used = fit_momentum(planned)
    assert used.momentum == pytest.approx(momentum, abs=1e-5)
    assert used.learning_rate / (1 - used.momentum) == pytest.approx(planned.learning_rate / (1 - planned.momentum))
    assert dataclasses.replace(used, momentum=0.99, learning_rate=0.01) == planned, "nothing else changes"


def test_momentum_is_the_users_where_they_say_so() -> None:
    assert fit_momentum(Training(epochs=1, momentum_spans=0)).momentum == 0.99
    low = Training(epochs=1, steps_per_epoch=5, momentum=0.85)
    assert fit_momentum(low) is low, "never raised"


def gathered(momentum: float, rate: float, steps: int) -> tuple[torch.nn.Parameter, torch.optim.SGD]:
    """A parameter with a steady gradient of one, after some steps."""
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=rate, momentum=momentum, nesterov=True)
    for _ in range(steps):
        parameter.grad = torch.ones(1)
        optimizer.step()
    return parameter, optimizer


def test_steps_stay_as_large_when_the_momentum_changes() -> None:
    planned = Training(epochs=1, steps_per_epoch=500)
    used = fit_momentum(planned)
    parameter, optimizer = gathered(planned.momentum, planned.learning_rate, 2000)
    before = parameter.item()
    parameter.grad = torch.ones(1)
    optimizer.step()
    step = parameter.item() - before
    bend = Bend(epoch=0, rate=0.004, end=3, planned=5)
    counters = Counters(bend=bend)
    assert carry_over(counters, optimizer, planned, used)
    for group in optimizer.param_groups:
        group["lr"], group["momentum"] = used.learning_rate, used.momentum
    before = parameter.item()
    parameter.grad = torch.ones(1)
    optimizer.step()
    assert parameter.item() - before == pytest.approx(step, rel=1e-3)
    assert counters.momentum == 0.95
    assert counters.bend is not None
    assert counters.bend.rate == pytest.approx(0.02)
    assert not carry_over(counters, optimizer, planned, used), "once"


def test_a_training_saved_by_an_older_version_goes_on(
    make_run: Callable[..., RunFolder], capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(epochs=1, steps_per_epoch=2, validation_steps=1, momentum_spans=0)
    job = fold_job(run, "tiny", 0)
    FoldTrainer(job).run()
    with safe_open(job.folder.state, framework="pt") as file:
        counters = json.loads(file.metadata()["counters"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    assert counters.pop("momentum") == 0.99
    write_atomic(job.folder.state, save(tensors, metadata={"counters": json.dumps(counters)}))
    training = dataclasses.replace(job.configuration.training, epochs=2, momentum_spans=25)
    longer = dataclasses.replace(job, configuration=dataclasses.replace(job.configuration, training=training))
    trainer = FoldTrainer(longer)
    trainer._begin()
    buffers = {id(parameter): state for parameter, state in trainer.optimizer.state.items()}
    for name, parameter in trainer.network.named_parameters():
        torch.testing.assert_close(buffers[id(parameter)]["momentum_buffer"], tensors[f"momentum.{name}"] / 10)
    assert "4 steps are few: momentum 0.9" in capsys.readouterr().err
    trainer.run()
    assert load_counters(job.folder.state).momentum == 0.9
