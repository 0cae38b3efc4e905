"""Fixtures shared by all tests: where the real data is, and quiet, small thread pools."""

import os
from pathlib import Path

import pytest

DATA_FOLDER = Path(os.environ.get("AUTOSEG_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))
GOLDEN_FOLDER = Path(os.environ.get("AUTOSEG_TEST_GOLDEN", Path(__file__).parents[2] / "shared" / "golden"))


def _folder(path: Path, variable: str) -> Path:
    if not path.is_dir():
        pytest.skip(f"needs real data: {path} does not exist (set {variable})")
    return path


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The folder of real datasets; skips where it is absent."""
    return _folder(DATA_FOLDER, "AUTOSEG_TEST_DATA")


@pytest.fixture(scope="session")
def golden_folder() -> Path:
    """The folder of kept results of nnU-Net v2.8.1; skips where it is absent."""
    return _folder(GOLDEN_FOLDER, "AUTOSEG_TEST_GOLDEN")
