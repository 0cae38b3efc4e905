"""Small volumes, files written by ITK, one oblique geometry, and a dataset to be spoiled for the check to find."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from scipy import ndimage

from autoseg.data.check import KINDS, CheckResult, check_dataset
from autoseg.data.dataset import DatasetSource, open_dataset
from autoseg.data.image import Geometry

OBLIQUE = np.linalg.qr(np.array([[1.0, 0.2, -0.1], [-0.3, 1.0, 0.4], [0.1, -0.2, 1.0]]))[0]


@pytest.fixture
def spaced() -> Geometry:
    """An oblique volume with three different spacings."""
    direction = tuple(OBLIQUE.ravel().tolist())
    return Geometry(spacing_mm=(3.3000001, 0.7123, 0.41), origin=(-12.25, 7.5, 100.125), direction=direction)


@pytest.fixture
def volume() -> Callable[..., np.ndarray]:
    """Give an array of random numbers over the whole range of a type."""

    def make(dtype: str = "uint8", shape: tuple[int, ...] = (4, 6, 5)) -> np.ndarray:
        rng = np.random.default_rng(7)
        if np.dtype(dtype).kind == "f":
            return rng.normal(0, 100, shape).astype(dtype)
        limits = np.iinfo(dtype)
        return rng.integers(max(limits.min, -(2**40)), min(limits.max, 2**40), shape).astype(dtype)

    return make


@pytest.fixture
def write_itk() -> Callable[..., Path]:
    """Write an array as ITK does, compressed where the format allows it."""

    def write(path: Path, array: np.ndarray, geometry: Geometry | None = None, *, vector: bool = False) -> Path:
        image = sitk.GetImageFromArray(array, isVector=vector)
        if geometry is not None:
            size = image.GetDimension()
            image.SetSpacing(geometry.file_spacing[:size])
            image.SetOrigin(geometry.origin[:size])
            image.SetDirection(np.array(geometry.direction).reshape(3, 3)[:size, :size].ravel().tolist())
        sitk.WriteImage(image, str(path), True)
        return path

    return write


@pytest.fixture
def assert_same_place() -> Callable[[Geometry, Geometry, tuple[int, ...]], None]:
    """Compare two geometries as far as 32-bit headers go."""

    def compare(first: Geometry, second: Geometry, shape: tuple[int, ...]) -> None:
        assert first.dimensions == second.dimensions
        assert second.displacement(first, shape) < 1e-4
        np.testing.assert_allclose(first.spacing_mm, second.spacing_mm, rtol=1e-6)

    return compare


@dataclass(frozen=True)
class SpoiledDataset:
    """A dataset on disk: six cases of two channels, one test image. Sound at first; tests spoil it and check it."""

    root: Path
    shape: tuple[int, int, int] = (12, 14, 16)
    num_cases: int = 6

    def image(self, case: int, channel: int = 0, folder: str = "imagesTr") -> Path:
        return self.root / folder / f"case_{case:02d}_{channel:04d}.nii.gz"

    def label(self, case: int) -> Path:
        return self.root / "labelsTr" / f"case_{case:02d}.nii.gz"

    def make_case(self, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Two channels of smooth noise, and a label of two nested boxes."""
        rng = np.random.default_rng(seed)
        image = ndimage.gaussian_filter(rng.normal(size=(2, *self.shape)), (0, 1, 1, 1)).astype(np.float32)
        label = np.zeros(self.shape, dtype=np.uint8)
        label[3:9, 4:11, 4:12] = 1
        label[5:8, 6:9, 6:10] = 2
        return image, label

    @staticmethod
    def grey_picture(image_ZYX: np.ndarray) -> np.ndarray:
        """A 2D image of bytes made of all slices of a volume."""
        return (128 + 40 * image_ZYX.reshape(-1, 16)).astype(np.uint8)

    @staticmethod
    def write(path: Path, array: np.ndarray, **geometry: Any) -> None:
        image = sitk.GetImageFromArray(array)
        image.SetSpacing(geometry.get("spacing", (1.0, 1.2, 2.0)))
        image.SetOrigin(geometry.get("origin", (5.0, -7.0, 11.0)))
        image.SetDirection(geometry.get("direction", np.eye(3).ravel().tolist()))
        sitk.WriteImage(image, str(path))

    @staticmethod
    def truncate(path: Path, fraction: float = 0.6) -> None:
        content = path.read_bytes()
        path.write_bytes(content[: int(len(content) * fraction)])

    def declare(self, **changes: Any) -> None:
        content = {
            "channel_names": {"0": "T1", "1": "T2"},
            "labels": {"background": 0, "outer": 1, "inner": 2},
            "numTraining": self.num_cases,
            "file_ending": ".nii.gz",
        }
        kept = {key: value for key, value in {**content, **changes}.items() if value is not None}
        (self.root / "dataset.json").write_text(json.dumps(kept))

    def make(self) -> None:
        """Write the sound dataset."""
        for folder in ("imagesTr", "labelsTr", "imagesTs"):
            (self.root / folder).mkdir()
        for case in range(self.num_cases):
            image, label = self.make_case(case)
            for channel in range(2):
                self.write(self.image(case, channel), image[channel])
            self.write(self.label(case), label)
        for channel in range(2):
            self.write(self.image(90, channel, "imagesTs"), self.make_case(90)[0][channel])
        self.declare()

    def check(self, folder: Path | None = None, task: str = "auto", **options: Any) -> CheckResult:
        return check_dataset(open_dataset(DatasetSource(dataset=folder or self.root, task=task)), threads=2, **options)

    @staticmethod
    def found(result: CheckResult) -> set[tuple[str, str | None]]:
        return {(item.kind, item.case) for item in result.problems}

    def only(self, kind: str, case: int | None, **options: Any) -> str:
        """Check that exactly this problem is found, as the table has it, and give what it says."""
        result = self.check(**options)
        name = None if case is None else f"case_{case:02d}"
        assert self.found(result) == {(kind, name)}, result.text()
        (item,) = result.problems
        assert item.stops == result.stops == KINDS[kind].stops
        assert item.fix
        assert f"[{kind}]" in result.text()
        assert result.text().splitlines()[-1 if item.stops else -2].startswith("not ready" if item.stops else "ready")
        return item.found


@pytest.fixture(scope="session")
def sound_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sound")
    SpoiledDataset(root).make()
    return root


@pytest.fixture
def spoiled(sound_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> SpoiledDataset:
    """A copy of the sound dataset, to be spoiled."""
    return SpoiledDataset(Path(shutil.copytree(sound_folder, tmp_path_factory.mktemp("check") / "spoiled")))
