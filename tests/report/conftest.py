"""Fixtures of the report's tests: folders of made-up runs, and what such runs measure."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # the modules beside this file; tests are no package

from fake_objects import FakeObjects
from fake_runs import FakeRun, make_bins, make_metrics

from autoseg.evaluation.confidence import Bin
from autoseg.evaluation.metric_records import MetricTable
from autoseg.run_folder import RunFolder


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., RunFolder]:
    """Make a run folder; keywords are the fields of ``FakeRun``, and ``folder``, where to make it."""

    def make(folder: str = "", **fields: Any) -> RunFolder:
        return FakeRun(**fields).make(tmp_path / folder)

    return make


@pytest.fixture
def make_object_run(tmp_path: Path) -> Callable[..., RunFolder]:
    """Make the folder of a run that tells objects apart; keywords are the fields of ``FakeObjects``."""

    def make(folder: str = "", **fields: Any) -> RunFolder:
        return FakeObjects(**fields).make(tmp_path / folder)

    return make


@pytest.fixture
def metrics_of() -> Callable[..., MetricTable]:
    """Make metrics of plausible size from scores."""
    return make_metrics


@pytest.fixture
def bins_of() -> Callable[..., tuple[Bin, ...]]:
    """Make a calibration curve of networks that are too sure."""
    return make_bins
