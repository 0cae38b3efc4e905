"""Slices: cut, turned and thinned alike for image, label and prediction."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from autoseg.data.image import Geometry
from autoseg.report import slices
from autoseg.report.outlines import area, outline
from autoseg.report.slices import Slice, crop, encode_image, thin, upright


def make_slice(shape: tuple[int, int], spacing: tuple[float, float] = (1.0, 1.0)) -> Slice:
    label = np.zeros(shape, dtype=np.int16)
    image = np.arange(np.prod(shape), dtype=np.float32).reshape(1, *shape)
    return Slice(image, label, label.copy(), np.zeros(shape, dtype=bool), spacing)


def decoded(uri: str) -> tuple[str, np.ndarray]:
    head, data = uri.split(",")
    return head, np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))


def test_crop_keeps_every_structure_and_is_about_square_in_millimetres() -> None:
    cut = make_slice((100, 300), (4.0, 1.0))
    cut.label_YX[40:50, 100:140] = 1
    cut.prediction_YX[45, 150] = 2
    small = crop(cut)
    assert (small.label_YX > 0).sum() == 400
    assert (small.prediction_YX > 0).sum() == 1
    height, width = small.label_YX.shape
    assert height * 4 == pytest.approx(width, rel=0.1)
    assert small.image_CYX.shape == (1, height, width)


def test_crop_at_the_border_stays_inside_and_empty_slices_stay_whole() -> None:
    cut = make_slice((90, 90))
    assert crop(cut).label_YX.shape == (90, 90)
    cut.label_YX[88:, 88:] = 1
    assert crop(cut).label_YX.shape == (32, 32)
    assert crop(cut).label_YX[-2:, -2:].all()


def test_thin_limits_sides_and_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    cut, factor = thin(make_slice((1000, 610)))
    assert factor == 4
    assert cut.label_YX.shape == cut.image_CYX.shape[1:] == (250, 153)
    assert cut.spacing_yx == (4.0, 4.0)
    assert cut.image_CYX[0, 0, 0] == np.arange(4).mean() + 610 * np.arange(4).mean()
    noisy = make_slice((64, 64))
    noisy.prediction_YX[:] = np.random.default_rng(0).integers(0, 2, (64, 64))
    monkeypatch.setattr(slices, "MAX_PATH_CHARACTERS", 2000)
    assert thin(noisy)[1] > 1


def test_ignored_voxels_are_not_wrong() -> None:
    cut = make_slice((2, 2))
    cut.prediction_YX[0] = 1
    cut.ignored_YX[0, 0] = True
    assert cut.wrong_YX.tolist() == [[False, True], [False, False]]


@pytest.mark.parametrize(
    ("direction", "axis", "flips"),
    [
        ((1, 0, 0, 0, 1, 0, 0, 0, 1), 0, (1, 1)),
        ((-1, 0, 0, 0, -1, 0, 0, 0, 1), 0, (-1, -1)),
        ((1, 0, 0, 0, 1, 0, 0, 0, 1), 1, (-1, 1)),  # rows are z: the head belongs at the top
        ((1, 0, 0, 0, 1, 0, 0, 0, -1), 2, (1, 1)),
    ],
)
def test_upright_turns_by_the_direction(direction: tuple[float, ...], axis: int, flips: tuple[int, int]) -> None:
    cut = make_slice((3, 4))
    geometry = Geometry(spacing_mm=(2.0, 1.0, 1.0), direction=direction)
    turned = upright(cut, geometry, axis)
    assert np.array_equal(turned.image_CYX, cut.image_CYX[:, :: flips[0], :: flips[1]])
    unknown = Geometry(spacing_mm=(2.0, 1.0, 1.0), direction=direction, known=False)
    assert upright(cut, unknown, axis) is cut


def test_grey_images_are_windowed_and_colours_kept() -> None:
    grey = np.linspace(-500, 2000, 400, dtype=np.float32).reshape(1, 20, 20)
    grey[0, 0, 0] = np.nan
    head, values = decoded(encode_image(grey))
    assert head == "data:image/png;base64"
    assert (values.min(), values.max()) == (0, 255)
    colours = np.random.default_rng(0).integers(0, 255, (3, 5, 6)).astype(np.uint8)
    assert np.array_equal(decoded(encode_image(colours))[1], np.moveaxis(colours, 0, -1))
    assert decoded(encode_image(np.full((2, 4, 4), 7.0)))[1].max() == 0


def test_large_pictures_become_jpeg() -> None:
    noise = np.random.default_rng(0).integers(0, 255, (3, 300, 300)).astype(np.uint8)
    head, values = decoded(encode_image(noise))
    assert head == "data:image/jpeg;base64"
    assert values.shape == (300, 300, 3)


def test_pictures_of_noise_stay_small() -> None:
    """Six of them, the most a page has, leave a third of its 3 MB for the rest."""
    rng = np.random.default_rng(0)
    label, guess = (rng.integers(0, 3, (1100, 1000)).astype(np.int16) for _ in range(2))
    colours = rng.integers(0, 255, (3, 1100, 1000)).astype(np.uint8)
    cut, _ = thin(Slice(colours, label, guess, np.zeros((1100, 1000), dtype=bool), (1.0, 1.0)))
    paths = (outline(cut.label_YX), outline(cut.prediction_YX), area(cut.wrong_YX))
    assert len(encode_image(cut.image_CYX)) + sum(map(len, paths)) < 2_000_000 / 6
