"""What goes through Pillow: grey with alpha, palettes."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow

from autoseg.data import io


def test_grey_with_alpha_goes_through_pillow(tmp_path: Path) -> None:
    array = np.random.default_rng(1).integers(0, 255, (6, 7, 2)).astype(np.uint8)
    Pillow.frombytes("LA", (7, 6), array.tobytes()).save(tmp_path / "a.png")
    image = io.open_image([tmp_path / "a.png"])
    assert (image.num_channels, image.notes) == (1, ("alpha channel dropped",))
    np.testing.assert_array_equal(image.read()[0, 0], array[..., 0])


@pytest.mark.parametrize("ending", [".png", ".gif", ".bmp"])
def test_palettes_of_labels(tmp_path: Path, ending: str) -> None:
    index = np.random.default_rng(1).integers(0, 3, (6, 7)).astype(np.uint8)
    picture = Pillow.fromarray(index)
    picture.putpalette([0, 0, 0, 200, 0, 0, 0, 200, 0])
    picture.save(tmp_path / f"a{ending}")
    label = io.open_label(tmp_path / f"a{ending}")
    assert label.num_channels == 1
    assert "palette" in label.notes[0]
    np.testing.assert_array_equal(label.read()[0, 0], index)
    assert io.open_image([tmp_path / f"a{ending}"]).num_channels == 3
