"""Datasets of objects that touch, made in code: ellipsoids in thick slices, or ellipses in single pictures.

All objects of a picture are of one brightness, darker towards their surface. Where two meet, the dark seam is narrower
than the blur and no darker than many a place inside under the uneven light: a threshold joins them, their shape tells
them apart. Number, size, direction, light and noise differ from case to case.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import ndimage

from autoseg.data.image import Geometry, flat_geometry
from autoseg.data.io import write_segmentation
from autoseg.data.io_write import replace_whole, write_text
from planners.fingerprint import Shape, Spacing

ATTACHED = 0.75  # share of the objects that are laid beside another
OVERLAP = 0.88  # distance of two that touch, as a part of what their radii towards each other add up to
TRIES = 60  # places tried per object before it is left out
RIM, EDGE = (
    0.45,
    0.15,
)  # brightness at the surface, as a part of that inside, and how deep (part of the radius) it falls
GROUND, LIGHT, NOISE = 0.12, 0.35, 0.07  # brightness of the background, swing of the light, noise; inside is 1
BLUR_MM = 1.0  # in plane; through thick slices it is half a slice


@dataclass(frozen=True, kw_only=True)
class ObjectScene:
    """What a case shows.

    Attributes:
        shape: voxels z, y, x; a single picture has a z of length 1.
        spacing_mm: z, y, x.
        radii_mm: the least and the largest half axis.
        count: objects that are laid; a few may find no room.
    """

    shape: Shape
    spacing_mm: Spacing
    radii_mm: tuple[float, float]
    count: int


THICK_SLICES = ObjectScene(shape=(20, 72, 72), spacing_mm=(4.0, 1.0, 1.0), radii_mm=(9.0, 14.0), count=24)
"""Volumes whose slices lie four times as far apart as their pixels; an object spans five to seven of them."""

PICTURES = ObjectScene(shape=(1, 96, 96), spacing_mm=flat_geometry().spacing_mm, radii_mm=(6.0, 9.0), count=28)
"""Single pictures without a known size of their pixels."""


@dataclass(frozen=True, eq=False)
class Ellipsoid:
    """A centre in mm, and the matrix whose form is 1 on the surface."""

    centre: np.ndarray
    form: np.ndarray

    def radius(self, direction: np.ndarray) -> float:
        """Give the distance of the surface from the centre along a direction of length 1."""
        return float(1 / np.sqrt(direction @ self.form @ direction))

    def depth(self, places: np.ndarray) -> np.ndarray:
        """Say how far inside places (axes × space) lie: 1 at the centre, 0 on the surface, negative outside."""
        offset = places - self.centre.reshape(-1, *(1,) * (places.ndim - 1))
        return 1 - np.sqrt(np.einsum("i...,ij,j...->...", offset, self.form, offset))


def make_object_dataset(
    folder: Path, *, scene: ObjectScene = THICK_SLICES, num_cases: int = 10, num_tests: int = 2, seed: int = 0
) -> Path:
    """Write a dataset with the ids of its objects as labels: volumes as NIfTI, pictures as PNG with labels as TIFF.

    Args:
        folder: is made; ``dataset.json`` is written last.
        scene: what the cases show.
        num_cases: labelled cases.
        num_tests: further images under ``imagesTs``, their labels under ``labelsTs``.
        seed: the same seed makes the same files.

    Returns:
        The folder.
    """
    folder = Path(folder)
    flat = scene.shape[0] == 1
    geometry = flat_geometry(known=False) if flat else Geometry(spacing_mm=scene.spacing_mm)
    image_ending, label_ending = (".png", ".tif") if flat else (".nii.gz", ".nii.gz")
    for number in range(num_cases + num_tests):
        image_ZYX, ids_ZYX = make_object_case(np.random.default_rng([seed, number]), scene)
        side, name = (
            ("Ts", f"test_{number - num_cases + 1:02d}") if number >= num_cases else ("Tr", f"{number + 1:02d}")
        )
        write_segmentation(folder / f"images{side}" / f"objects_{name}_0000{image_ending}", image_ZYX, geometry)
        write_segmentation(folder / f"labels{side}" / f"objects_{name}{label_ending}", ids_ZYX, geometry)
    content = {
        "description": "made by autoseg: objects that touch",
        "channel_names": {"0": "microscopy"},
        "labels": {"background": 0, "object": 1},
        "instances": ["object"],
        "numTraining": num_cases,
        "file_ending": image_ending,
    }
    text = json.dumps(content, indent=1) + "\n"
    replace_whole(folder / "dataset.json", ".json", lambda path: write_text(path, text))
    return folder


def make_object_case(rng: np.random.Generator, scene: ObjectScene) -> tuple[np.ndarray, np.ndarray]:
    """Make one case.

    Returns:
        Image uint8 and ids int32, both z, y, x. Ids are drawn at random from 1 … 999: they need not be consecutive.
    """
    flat = scene.shape[0] == 1
    spacing = np.array(scene.spacing_mm[1:] if flat else scene.spacing_mm)
    shape = scene.shape[1:] if flat else scene.shape
    steps = [np.arange(size) * step for size, step in zip(shape, spacing, strict=True)]
    places = np.stack(np.meshgrid(*steps, indexing="ij"))
    bodies = _lay(rng, scene, np.array(shape) * spacing)
    depths = np.stack([np.full(shape, -1e-9), *(body.depth(places) for body in bodies)])
    owner = _whole(np.argmax(depths, axis=0), len(bodies))
    image = _render(rng, depths.max(axis=0) * (owner > 0), owner > 0, places, spacing)
    names = np.concatenate([[0], rng.choice(np.arange(1, 1000), len(bodies), replace=False)]).astype(np.int32)
    return image.reshape(scene.shape), names[owner].reshape(scene.shape)


def _lay(rng: np.random.Generator, scene: ObjectScene, extent: np.ndarray) -> list[Ellipsoid]:
    """Lay ellipsoids into a box, most of them beside another that is there."""
    laid: list[Ellipsoid] = []
    for _ in range(scene.count):
        form = _form(rng, len(extent), scene.radii_mm)
        for _ in range(TRIES):
            body = Ellipsoid(extent * rng.random(len(extent)), form)
            if laid and rng.random() < ATTACHED:
                body = _beside(rng, laid[rng.integers(len(laid))], form)
            inside = (body.centre >= 0).all() and (body.centre < extent).all()
            if inside and all(_apart(body, other) for other in laid):
                laid.append(body)
                break
    return laid


def _form(rng: np.random.Generator, axes: int, radii: tuple[float, float]) -> np.ndarray:
    turn, _ = np.linalg.qr(rng.normal(size=(axes, axes)))
    return turn @ np.diag(rng.uniform(*radii, axes) ** -2.0) @ turn.T


def _beside(rng: np.random.Generator, other: Ellipsoid, form: np.ndarray) -> Ellipsoid:
    direction = rng.normal(size=len(form))
    direction /= np.linalg.norm(direction)
    reach = other.radius(direction) + Ellipsoid(other.centre, form).radius(direction)
    return Ellipsoid(other.centre + OVERLAP * reach * direction, form)


def _apart(first: Ellipsoid, second: Ellipsoid) -> bool:
    """Tell whether two overlap no more than those that touch."""
    offset = second.centre - first.centre
    distance = float(np.linalg.norm(offset))
    if distance == 0:
        return False
    direction = offset / distance
    return distance >= (OVERLAP - 1e-6) * (first.radius(direction) + second.radius(direction))


def _whole(owner: np.ndarray, count: int) -> np.ndarray:
    """Keep of each object its largest piece."""
    result = np.zeros_like(owner)
    for index in range(1, count + 1):
        pieces, number = ndimage.label(owner == index)
        if number:
            result[pieces == 1 + np.argmax(np.bincount(pieces.ravel())[1:])] = index
    return result


def _render(
    rng: np.random.Generator, depth: np.ndarray, inside: np.ndarray, places: np.ndarray, spacing: np.ndarray
) -> np.ndarray:
    """Turn depths into a blurred, unevenly lit, noisy picture; uint8."""
    picture = np.where(inside, RIM + (1 - RIM) * (1 - np.exp(-depth / EDGE)), GROUND)
    blur = [max(BLUR_MM, step / 2) / step for step in spacing]  # in voxels
    picture = ndimage.gaussian_filter(picture, blur)
    wave = np.tensordot(rng.normal(0, 1, len(places)), places / places.max(), axes=1)
    light = 1 + LIGHT * np.sin(np.pi * wave + rng.uniform(0, 2 * np.pi))
    noise = rng.normal(0, NOISE, picture.shape)
    level = rng.uniform(90, 140)
    return np.clip(np.round((picture * light + noise) * level + 20), 0, 255).astype(np.uint8)
