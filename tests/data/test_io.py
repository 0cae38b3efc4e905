"""Every format: what was written is read again, a box is a crop of the whole, and a damaged file is named."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image as Pillow

from autoseg.data import io
from autoseg.data.image import Geometry, flat_geometry
from autoseg.errors import ImageError

Write = Callable[..., Path]
Volume = Callable[..., np.ndarray]
Same = Callable[..., None]
PLAIN_3D = Geometry(spacing_mm=(2.5, 0.75, 0.5))
FLAT = flat_geometry((0.75, 0.5))
BOX = ((1, 3), (2, 6), (0, 4))


VOLUME_FORMATS = [ending for ending, reader in io.READERS.items() if reader.volume and ending not in (".dcm",)]


TYPES = {
    ".tif": ["uint8", "int8", "uint16", "int16", "uint32", "int32", "float32"],
    ".nii": ["uint8", "int8", "uint16", "int16", "uint32", "int32", "int64", "uint64", "float32", "float64"],
}


@pytest.mark.parametrize("ending", VOLUME_FORMATS)
def test_volume_is_read_as_written(
    tmp_path: Path, ending: str, write_itk: Write, volume: Volume, assert_same_place: Same, spaced: Geometry
) -> None:
    for dtype in TYPES.get(".tif" if ending.startswith(".tif") else ".nii", []):
        array = volume(dtype)
        geometry = None if ending.startswith(".tif") else spaced
        image = io.open_image([write_itk(tmp_path / f"{dtype}{ending}", array, geometry)])
        assert (image.shape, image.dtype, image.num_channels) == (array.shape, array.dtype, 1)
        np.testing.assert_array_equal(image.read(), array[None])
        np.testing.assert_array_equal(image.read(BOX), array[None, 1:3, 2:6, 0:4])
        assert image.read().dtype == array.dtype
        if geometry is not None:
            assert_same_place(image.geometry, geometry, array.shape)
            assert image.geometry.known


@pytest.mark.parametrize("ending", [".png", ".tif", ".jpg", ".bmp", ".gif"])
def test_2d_grey(tmp_path: Path, ending: str) -> None:
    array = np.tile(np.arange(0, 240, 12, dtype=np.uint8), (16, 1))
    path = tmp_path / f"a{ending}"
    Pillow.fromarray(array).save(path)
    image = io.open_image([path])
    assert image.shape == (1, 16, 20)
    assert image.geometry == flat_geometry(known=False)
    assert image.geometry.spacing_mm == (999.0, 1.0, 1.0)
    read = image.read()
    assert np.abs(read[0, 0].astype(int) - array).max() <= (4 if ending == ".jpg" else 0)
    np.testing.assert_array_equal(image.read(((0, 1), (2, 5), (3, 9))), read[:, :, 2:5, 3:9])


@pytest.mark.parametrize("ending", [".png", ".tif"])
def test_colours_become_channels_and_alpha_is_dropped(tmp_path: Path, ending: str) -> None:
    array = np.random.default_rng(1).integers(0, 255, (6, 7, 4)).astype(np.uint8)
    for mode, expected in (("RGB", array[..., :3]), ("RGBA", array[..., :3])):
        path = tmp_path / f"{mode}{ending}"
        Pillow.fromarray(array if mode == "RGBA" else array[..., :3], mode=None).save(path)
        image = io.open_image([path])
        assert image.num_channels == 3
        assert image.notes == (("alpha channel dropped",) if mode == "RGBA" else ())
        np.testing.assert_array_equal(image.read()[:, 0], np.moveaxis(expected, -1, 0))
        np.testing.assert_array_equal(image.read(((0, 1), (1, 3), (2, 6))), image.read()[:, :, 1:3, 2:6])


def test_16_bit_png(tmp_path: Path, write_itk: Write, volume: Volume) -> None:
    array = volume("uint16", (6, 5))
    image = io.open_image([write_itk(tmp_path / "a.png", array)])
    np.testing.assert_array_equal(image.read()[0, 0], array)


def test_four_dimensions_are_channels(tmp_path: Path, write_itk: Write, volume: Volume) -> None:
    array = volume("int16", (3, 4, 6, 5))
    for ending in (".nii.gz", ".nii", ".mha"):
        image = io.open_image([write_itk(tmp_path / f"a{ending}", array)])
        assert (image.num_channels, image.shape) == (3, (4, 6, 5))
        np.testing.assert_array_equal(image.read(), array)
        np.testing.assert_array_equal(image.read(BOX), array[:, 1:3, 2:6, 0:4])


def test_vectors_are_channels(tmp_path: Path, write_itk: Write, volume: Volume) -> None:
    array = volume("int16", (4, 6, 5, 2))
    for ending in (".nii.gz", ".nrrd", ".mha"):
        image = io.open_image([write_itk(tmp_path / f"a{ending}", array, vector=True)])
        assert (image.num_channels, image.shape) == (2, (4, 6, 5))
        np.testing.assert_array_equal(image.read(BOX), np.moveaxis(array, -1, 0)[:, 1:3, 2:6, 0:4])


def test_single_slice_stays_3d_and_2d_nifti_stays_2d(tmp_path: Path, write_itk: Write, volume: Volume) -> None:
    one = io.open_image([write_itk(tmp_path / "one.nii.gz", volume(shape=(1, 6, 5)), PLAIN_3D)])
    flat = io.open_image([write_itk(tmp_path / "flat.nii.gz", volume(shape=(6, 5)), FLAT)])
    assert (one.shape, one.geometry.dimensions, one.geometry.spacing_mm) == ((1, 6, 5), 3, (2.5, 0.75, 0.5))
    assert (flat.shape, flat.geometry.dimensions) == ((1, 6, 5), 2)
    assert flat.geometry.spacing_mm == (999 * 0.75, 0.75, 0.5)


def test_channels_from_several_files(
    tmp_path: Path, write_itk: Write, volume: Volume, assert_same_place: Same, spaced: Geometry
) -> None:
    first, second = volume("uint8"), volume("int16")
    paths = [write_itk(tmp_path / "a_0000.nii.gz", first, spaced), write_itk(tmp_path / "a_0001.nii.gz", second)]
    image = io.open_image(paths)
    assert (image.num_channels, image.dtype, image.paths) == (2, np.dtype("int16"), tuple(paths))
    np.testing.assert_array_equal(image.read(BOX), np.stack([first, second])[:, 1:3, 2:6, 0:4])
    assert_same_place(image.geometry, spaced, first.shape)
    paths.append(write_itk(tmp_path / "a_0002.nii.gz", volume(shape=(4, 6, 7))))
    with pytest.raises(ImageError, match=r"a_0002.nii.gz has shape 4×6×7, .*a_0000.nii.gz has 4×6×5"):
        io.open_image(paths)


DAMAGED = [ending for ending in io.READERS if ending not in (".mhd", ".nhdr", ".dcm")]


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("kept", [0, 3, 0.3, 0.6, -24])
@pytest.mark.parametrize("ending", DAMAGED)
def test_truncated_file_is_named(tmp_path: Path, ending: str, kept: float, write_itk: Write, volume: Volume) -> None:
    path = tmp_path / f"scan{ending}"
    rng = np.random.default_rng(0)
    if io.READERS[ending].volume:
        write_itk(path, rng.integers(0, 250, (12, 30, 40)).astype(np.uint8))
    else:
        Pillow.fromarray(rng.integers(0, 250, (90, 80)).astype(np.uint8)).save(path)
    raw = path.read_bytes()
    path.write_bytes(raw[: int(kept * len(raw)) if 0 < kept < 1 else int(kept)])
    with pytest.raises(ImageError) as caught:
        io.open_image([path]).read()
    message = str(caught.value)
    assert path.name in message
    assert "\n" not in message
    assert "0x" not in message


@pytest.mark.parametrize("ending", [*DAMAGED, ".mhd", ".dcm"])
def test_text_under_an_image_name(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a{ending}"
    path.write_text("this is no image\n" * 40)
    with pytest.raises(ImageError, match=f"a{ending} "):
        io.open_image([path])


def test_missing_and_unknown_files(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"gone.nii.gz does not exist"):
        io.open_image([tmp_path / "gone.nii.gz"])
    (tmp_path / "a.xyz").write_text("?")
    with pytest.raises(ImageError, match=r"a.xyz has the ending .xyz, which is not known \(known: .nii.gz"):
        io.open_image([tmp_path / "a.xyz"])
    with pytest.raises(ImageError, match="no image file"):
        io.open_image([])


def test_header_is_read_without_the_voxels(tmp_path: Path, write_itk: Write, volume: Volume) -> None:
    path = write_itk(tmp_path / "a.nii.gz", volume("float32", (20, 30, 40)))
    path.write_bytes(path.read_bytes()[:2000])
    assert io.open_image([path]).shape == (20, 30, 40)


def test_label_colours(tmp_path: Path) -> None:
    grey = np.random.default_rng(1).integers(0, 3, (6, 7)).astype(np.uint8)
    Pillow.fromarray(np.stack([grey] * 3, axis=-1)).save(tmp_path / "grey.png")
    np.testing.assert_array_equal(io.open_label(tmp_path / "grey.png").read()[0, 0], grey)
    coloured = np.stack([grey, grey, grey * 0], axis=-1)
    Pillow.fromarray(coloured).save(tmp_path / "coloured.png")
    with pytest.raises(ImageError, match=r"coloured.png is a label in colours"):
        io.open_label(tmp_path / "coloured.png").read()


def test_every_format_is_in_the_documents() -> None:
    document = (Path(__file__).parents[2] / "dataset_conventions.md").read_text()
    table = document[document.index("## Formats") : document.index("## 2D and 3D")]
    for ending, reader in io.READERS.items():
        row = next(line for line in table.splitlines() if f"`{ending}`" in line)
        assert row.split("|")[4].strip() == ("yes" if reader.label else "no")
        assert reader.name.split()[0] in row


def test_what_cannot_be_a_label(tmp_path: Path, write_itk: Write, volume: Volume) -> None:
    Pillow.fromarray(volume(shape=(6, 5))).save(tmp_path / "a.jpg")
    with pytest.raises(ImageError, match=r"a.jpg: a JPEG file changes the values of labels"):
        io.open_label(tmp_path / "a.jpg")
    with pytest.raises(ImageError, match="is a folder; a label is one file"):
        io.open_label(tmp_path)
    with pytest.raises(ImageError, match=r"a.nii.gz has 2 channels; a label has one"):
        io.open_label(write_itk(tmp_path / "a.nii.gz", volume(shape=(2, 4, 6, 5))))


def test_float_label_keeps_its_type(tmp_path: Path, write_itk: Write) -> None:
    array = np.array([[[0, 1.0], [2.0, 0.5]]], dtype=np.float32)
    np.testing.assert_array_equal(io.open_label(write_itk(tmp_path / "a.nii.gz", array)).read()[0], array)


@pytest.mark.parametrize(("given", "written"), [("a.jpg", "a.png"), ("a.GIF", "a.png"), ("a.bmp", "a.png")])
def test_formats_that_hold_no_labels_become_png(tmp_path: Path, given: str, written: str) -> None:
    assert io.write_segmentation(tmp_path / given, np.ones((1, 6, 5), np.uint8), FLAT).name == written
    assert io.output_ending(given) == ".png"


def test_endings() -> None:
    assert [io.image_ending(name) for name in ("a.NII.GZ", "b.nii", "x.y.png", "c.gz", "d")] == [
        ".nii.gz", ".nii", ".png", ".gz", "",
    ]  # fmt: skip
    assert io.image_stem("/x/case.1_0000.nii.gz") == "case.1_0000"
    assert [io.output_ending(name) for name in ("a.mhd", "a.tif", "a.dcm")] == [".mha", ".tif", ".nii.gz"]


def test_one_image_read_by_many_threads(tmp_path: Path, write_itk: Write, volume: Volume) -> None:
    array = volume("int16", (20, 30, 40))
    for ending in (".nii.gz", ".nii", ".mha", ".tif"):
        image = io.open_image([write_itk(tmp_path / f"a{ending}", array)])
        boxes = [((z, z + 3), (0, 30), (5, 25)) for z in range(16)]
        with ThreadPoolExecutor(4) as pool:
            for box, part in zip(boxes, pool.map(image.read, boxes), strict=True):
                np.testing.assert_array_equal(part[0], array[box[0][0] : box[0][1], :, 5:25])


@pytest.mark.data
@pytest.mark.parametrize(
    "pattern",
    ["hippocampus/imagesTr/*_00[0-4]_*", "pyradiomics_cases/*.nrrd", "sct_cord_mri/*/*.nii.gz", "stardist_mini/*.tif"],
)
def test_real_volumes_agree_with_itk(data_folder: Path, pattern: str) -> None:
    paths = sorted(data_folder.glob(pattern))
    assert paths
    for path in paths:
        image, expected = io.open_image([path]), sitk.ReadImage(str(path))
        array = sitk.GetArrayFromImage(expected)
        array = array[:, None] if array.ndim == 2 else array
        assert image.dtype == array.dtype
        np.testing.assert_array_equal(image.read()[0].reshape(array.shape), array)
        if image.geometry.known:
            np.testing.assert_allclose(image.geometry.file_spacing, expected.GetSpacing())


@pytest.mark.data
def test_real_photographs(data_folder: Path) -> None:
    sem = sorted(data_folder.glob("axondeepseg_sem/sub-*/micr/*.png"))
    images = [io.open_image([path]) for path in sem]
    assert {image.num_channels for image in images} == {1}
    assert "alpha channel dropped" in {note for image in images for note in image.notes}
    placed = [image.geometry for image in images if image.geometry.known]  # one sidecar is for three images
    assert len(placed) == 7
    assert all(geometry.spacing_mm[2] < 0.001 for geometry in placed)  # BIDS: micrometres
    nucleus = io.open_image([next((data_folder / "dsb2018_nuclei" / "images").glob("*.png"))])
    assert (nucleus.num_channels, nucleus.notes) == (3, ("alpha channel dropped",))
    label = io.open_label(data_folder / "drive_retina/training/1st_manual/21_manual1.gif")
    assert np.unique(label.read()).tolist() == [0, 255]


def test_itk_reads_and_writes_one_file_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its readers and writers share global data; threads that met there have killed the process now and then."""
    inside, most = 0, 0
    real = sitk.ImageFileReader.Execute

    def execute(reader: sitk.ImageFileReader, *arguments: object) -> sitk.Image:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        time.sleep(0.002)
        inside -= 1
        return real(reader, *arguments)

    monkeypatch.setattr(sitk.ImageFileReader, "Execute", execute)
    paths = [tmp_path / f"{index}.nrrd" for index in range(8)]
    for path in paths:
        sitk.WriteImage(sitk.GetImageFromArray(np.ones((3, 4, 5), np.uint8)), str(path))
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda path: io.open_image([path]).read(), paths))
    assert len(found) == 8
    assert most == 1
