"""The hostile tests share workers, which are started once, and a folder of which only one part may be touched."""

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # the modules beside this file; tests are no package

from hostile_driver import Worker
from hostile_seeds import image_seeds, record_seeds


@pytest.fixture(scope="session")
def worker() -> Iterator[Worker]:
    """A process that opens images, datasets and tables."""
    process = Worker("image", "dataset")
    yield process
    process.stop()


@pytest.fixture(scope="session")
def model_worker() -> Iterator[Worker]:
    """A process that opens records, weights and foreign checkpoints, and runs command lines."""
    process = Worker("record", "weights", "foreign", "bundle", "command")
    yield process
    process.stop()


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[bytes]]:
    """Small images of every format."""
    return image_seeds(tmp_path_factory.mktemp("seeds"))


@pytest.fixture(scope="session")
def records() -> dict[str, bytes]:
    """The text of a record of each kind."""
    return record_seeds()


@pytest.fixture
def given(tmp_path: Path) -> Path:
    """The folder in which hostile files are laid."""
    folder = tmp_path / "outer" / "given"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def strays(tmp_path: Path, given: Path) -> Callable[[], set[str]]:
    """Give a function that lists what lies outside that folder, and what appeared in it beside the hostile files."""

    def listed() -> set[str]:
        found = {name for name in os.listdir(given) if name.startswith((".", "written", "tmp"))}
        for place, folders, files in os.walk(tmp_path):  # not rglob: this runs a hundred thousand times
            folders[:] = [name for name in folders if os.path.join(place, name) != str(given)]
            found.update(os.path.join(place, name) for name in (*folders, *files))
        return found

    return listed
