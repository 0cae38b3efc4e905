"""Tests of inference: quiet, and runs with untrained networks."""

import sys
from pathlib import Path

import pytest

from autoseg.evaluation.selection import Choice
from autoseg.networks import build_network, save_weights
from autoseg.run_folder import RunFolder
from planners.fingerprint import Channel
from planners.labels import LabelClass, Labels
from planners.plan import MemoryBudget, Plan

sys.path.insert(0, str(Path(__file__).parent))  # the modules beside this file; tests are no package

LABELS = Labels(classes=tuple(LabelClass(name=name, value=v) for name, v in (("air", 0), ("rim", 127), ("core", 255))))


@pytest.fixture(autouse=True)
def quiet(one_thread: None) -> None:
    """All tests here compute on one thread."""


@pytest.fixture
def make_choice():
    """Give a function that makes a choice of some configurations and folds."""

    def make(configurations=("3d",), folds=(0, 1), postprocessing=()):
        return Choice(
            configurations=configurations,
            folds=folds,
            postprocessing=postprocessing,
            structures=("rim", "core"),
            num_cases=4,
            mean_dice=0.5,
            mean_iou=0.4,
            dice=(0.5, 0.5),
            candidates=(),
            trials=(),
            reasons=(),
        )

    return make


@pytest.fixture
def make_run(make_configuration, make_choice, tmp_path):
    """Give a function that makes a run folder with untrained networks."""

    def make(*patches, num_channels=1, folds=(0, 1), choice=None, axis_order=(0, 1, 2), name="run", seed=0):
        configurations = tuple(
            make_configuration(
                patch, num_channels=num_channels, name=f"{len(patch)}d{index}" if index else f"{len(patch)}d"
            )
            for index, patch in enumerate(patches)
        )
        plan = Plan(
            dataset="test",
            planner="default",
            budget=MemoryBudget(),
            axis_order=axis_order,
            channels=tuple(Channel(name=f"c{index}") for index in range(num_channels)),
            labels=LABELS,
            configurations=configurations,
        )
        run = RunFolder(tmp_path / name)
        run.write(plan, run.plan_file)
        for configuration in configurations:
            for index, fold in enumerate(folds):
                network = build_network(configuration.architecture, num_channels, 3, seed=seed + index)
                save_weights(run.fold(configuration.name, fold).weights_last, network, {"step": "0"})
        if choice is not None:
            run.write(make_choice(**choice), run.choice_file)
        return run

    return make
