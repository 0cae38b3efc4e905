"""A small 3D dataset made in code, hard enough to be worth a network and small enough for two CPU cores.

Each case shows a lumpy organ with a core inside, in two channels. Another blob looks like the core but lies outside the
organ and belongs to the background, so that brightness alone does not tell. Position, size, lumps, spacing, shape,
brightness, a bias field and noise differ from case to case.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from autoseg.data.image import Geometry
from autoseg.data.io import write_segmentation
from autoseg.data.io_write import replace_whole, write_text

NUM_TEST_CASES = 2
CHANNELS = ("T1", "T2")
LABELS = {"background": 0, "organ": 1, "core": 2}
LEVELS = {"air": (0.0, 0.0), "organ": (1.0, 0.6), "core": (0.55, 1.2), "distractor": (0.55, 1.2)}
"""Brightness of each structure in the two channels, before gain and bias."""

NOISE, BIAS, SHARPNESS = 0.13, 0.25, 25.0
"""Standard deviation of the noise and size of the bias field (parts of the organ's brightness in T1), and how quickly
the brightness changes at a surface (over 1 / 25 of the radius: about half a voxel)."""


@dataclass(frozen=True)
class Blob:
    """A star-shaped body: an ellipsoid whose radius swings with the direction."""

    centre_mm: np.ndarray
    radii_mm: np.ndarray
    lumps: np.ndarray  # (3, 4): per wave, its direction (3) and its strength

    def depth(self, places_mm: np.ndarray) -> np.ndarray:
        """Say how far inside places (3, z, y, x) lie: 1 at the centre, 0 on the surface, negative outside."""
        offset = places_mm - self.centre_mm[:, None, None, None]
        scaled = offset / self.radii_mm[:, None, None, None]
        radius = np.sqrt((scaled**2).sum(axis=0))
        direction = scaled / np.maximum(radius, 1e-6)
        swing = sum(wave[3] * np.sin(np.tensordot(wave[:3], direction, axes=1)) for wave in self.lumps)
        return 1 - radius / (1 + swing)


def make_demo_dataset(folder: Path, *, num_cases: int = 12, seed: int = 0) -> Path:
    """Write the demo dataset in nnU-Net v2's layout, with two more images under ``imagesTs``.

    Args:
        folder: is made; ``dataset.json`` is written last.
        num_cases: labelled cases.
        seed: the same seed makes the same files.

    Returns:
        The folder.
    """
    folder = Path(folder)
    for number in range(num_cases + NUM_TEST_CASES):
        image_CZYX, label_ZYX, geometry = make_demo_case(np.random.default_rng([seed, number]))
        test = number >= num_cases
        name = f"test_{number - num_cases + 1:02d}" if test else f"demo_{number + 1:02d}"
        images = folder / ("imagesTs" if test else "imagesTr")
        for channel, image_ZYX in enumerate(image_CZYX):
            write_segmentation(images / f"{name}_{channel:04d}.nii.gz", image_ZYX, geometry)
        if not test:
            write_segmentation(folder / "labelsTr" / f"{name}.nii.gz", label_ZYX, geometry)
    content = {
        "name": "Demo",
        "description": "made by autoseg demo: an organ with a core, in two channels",
        "channel_names": {str(number): name for number, name in enumerate(CHANNELS)},
        "labels": LABELS,
        "numTraining": num_cases,
        "file_ending": ".nii.gz",
    }
    text = json.dumps(content, indent=1) + "\n"
    replace_whole(folder / "dataset.json", ".json", lambda path: write_text(path, text))
    return folder


def make_demo_case(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, Geometry]:
    """Make one case.

    Returns:
        Image (channel, z, y, x) int16, label (z, y, x) uint8, and their geometry.
    """
    shape = (int(rng.integers(24, 33)), int(rng.integers(28, 41)), int(rng.integers(28, 41)))
    in_plane = rng.uniform(0.85, 1.15)
    spacing = (round(float(rng.uniform(1.1, 1.6)), 3), round(float(in_plane), 3), round(float(in_plane), 3))
    extent = np.array(shape) * np.array(spacing)
    steps = [np.arange(size) * step for size, step in zip(shape, spacing, strict=True)]
    places = np.array(np.meshgrid(*steps, indexing="ij"))
    organ, core, distractor = _bodies(rng, extent)
    depths = {"organ": organ.depth(places), "distractor": distractor.depth(places)}
    depths["core"] = np.minimum(core.depth(places), depths["organ"])
    label = np.zeros(shape, dtype=np.uint8)
    label[depths["organ"] > 0] = LABELS["organ"]
    label[depths["core"] > 0] = LABELS["core"]
    image = _render(rng, places / extent[:, None, None, None], depths)
    origin = tuple(round(float(value), 2) for value in rng.uniform(-50, 50, 3))
    return image, label, Geometry(spacing_mm=spacing, origin=origin)


def _bodies(rng: np.random.Generator, extent_mm: np.ndarray) -> tuple[Blob, Blob, Blob]:
    """Draw the organ, the core inside it, and the blob that only looks like the core."""
    centre = extent_mm * rng.uniform(0.44, 0.56, 3)
    radii = extent_mm * rng.uniform(0.27, 0.36, 3)
    organ = Blob(centre, radii, _lumps(rng, 0.12))
    core = Blob(centre + radii * rng.uniform(-0.25, 0.25, 3), radii * rng.uniform(0.5, 0.62, 3), _lumps(rng, 0.1))
    corner = np.where(rng.random(3) < 0.5, 0.12, 0.88)
    distractor = Blob(extent_mm * corner, radii * rng.uniform(0.35, 0.5, 3), _lumps(rng, 0.1))
    return organ, core, distractor


def _lumps(rng: np.random.Generator, strength: float) -> np.ndarray:
    return np.concatenate([rng.normal(0, 3, (3, 3)), rng.uniform(-strength, strength, (3, 1))], axis=1)


def _render(rng: np.random.Generator, relative: np.ndarray, depths: dict[str, np.ndarray]) -> np.ndarray:
    """Turn depths into two noisy channels with soft edges, a bias field each, and a gain of its own for the case."""
    channels = []
    gain = rng.uniform(300, 900)
    for channel in range(len(CHANNELS)):
        picture = np.full(relative.shape[1:], LEVELS["air"][channel])
        for name in ("distractor", "organ", "core"):
            inside = 1 / (1 + np.exp(-np.clip(depths[name] * SHARPNESS, -30, 30)))
            picture = picture * (1 - inside) + LEVELS[name][channel] * inside
        waves = np.tensordot(rng.normal(0, 1, 3), relative - 0.5, axes=1) * np.pi
        bias = 1 + BIAS * np.sin(waves + rng.uniform(0, 2 * np.pi))
        noise = rng.normal(0, NOISE, picture.shape)
        channels.append((picture + 0.3) * bias + noise + 0.8)
    return np.round(np.clip(np.array(channels) * gain, 0, 32000)).astype(np.int16)
