"""TIFF: pixel sizes, the JSON file beside an image, channels of ImageJ."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow

from autoseg.data import io
from autoseg.data.image import flat_geometry
from autoseg.errors import ImageError

Write = Callable[..., Path]
Volume = Callable[..., np.ndarray]
FLAT = flat_geometry((0.75, 0.5))


def test_pixel_size_of_tiff(tmp_path: Path, write_itk: Write, volume: Volume) -> None:
    array = volume("uint8", (6, 5))
    placed = io.open_image([write_itk(tmp_path / "a.tif", array, FLAT)])
    assert placed.geometry.known
    np.testing.assert_allclose(placed.geometry.spacing_mm[1:], (0.75, 0.5), rtol=1e-6)
    Pillow.fromarray(array).save(tmp_path / "b.tif", dpi=(72, 72))
    printed = io.open_image([tmp_path / "b.tif"])
    assert printed.geometry == flat_geometry(known=False)
    assert "72 dpi is a print resolution" in printed.notes[0]


@pytest.mark.parametrize(
    ("name", "content", "spacing"),
    [
        ("scan.json", {"spacing": [2.0, 0.5, 0.25]}, (2.0, 0.5, 0.25)),
        ("scan_0000.json", {"PixelSize": [250, 500], "PixelSizeUnits": "um"}, (1.0, 0.5, 0.25)),
        ("scan.json", {"creator": "nobody"}, (1.0, 1.0, 1.0)),
        ("scan.json", ["no", "object"], (1.0, 1.0, 1.0)),
    ],
)
def test_sidecar_says_the_pixel_size(
    tmp_path: Path, name: str, content: object, spacing: tuple[float, ...], write_itk: Write, volume: Volume
) -> None:
    path = write_itk(tmp_path / "scan_0000.tif", volume())
    (tmp_path / name).write_text(json.dumps(content))
    assert io.open_image([path]).geometry.spacing_mm == pytest.approx(spacing)


def test_faulty_sidecar_is_an_error(tmp_path: Path, write_itk: Write, volume: Volume) -> None:
    path = write_itk(tmp_path / "scan.tif", volume())
    (tmp_path / "scan.json").write_text('{"spacing": [0, 1, 1]}')
    with pytest.raises(ImageError, match=r"scan.json: the pixel size \[0.0, 1.0, 1.0\] is none"):
        io.open_image([path])


def test_imagej_channels_and_sizes(tmp_path: Path, volume: Volume) -> None:
    array = volume("uint8", (6, 7, 5))
    pages = [Pillow.fromarray(page) for page in array]
    words = "ImageJ=1.54f\nimages=6\nchannels=2\nslices=3\nunit=micron\nspacing=3.0\n"
    info = {270: words, 282: (4.0), 283: (4.0), 296: 1}
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:], tiffinfo=info)
    image = io.open_image([tmp_path / "a.tif"])
    assert (image.num_channels, image.shape) == (2, (3, 7, 5))
    assert image.geometry.spacing_mm == pytest.approx((0.003, 0.00025, 0.00025))
    np.testing.assert_array_equal(image.read(), np.stack([array[0::2], array[1::2]]))
    np.testing.assert_array_equal(image.read(((1, 2), (0, 7), (0, 5))), image.read()[:, 1:2])
