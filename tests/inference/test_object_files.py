"""What prediction writes of objects: ids, classes, a table and outlines, in every format, kept and renewed together."""

import csv
import dataclasses
import json

import numpy as np
import pytest
import SimpleITK as sitk
from skimage.measure import label as label_pieces

from autoseg.compute import Compute
from autoseg.data.folders import list_images
from autoseg.data.image import Geometry, flat_geometry, image_from_array
from autoseg.data.io import open_label, write_segmentation
from autoseg.errors import ImageError, ModelError, OptionError
from autoseg.evaluation.instance_folders import evaluate_instances
from autoseg.inference import instances as instances_module
from autoseg.inference.chain import Chain
from autoseg.inference.folder import list_segmentations
from autoseg.inference.logits_part import LogitsPart
from autoseg.inference.predictor import Predictor, predict, predict_folder
from autoseg.networks import build_network, save_weights
from autoseg.run_folder import RunFolder
from planners.fingerprint import Channel, Fingerprint
from planners.labels import LabelClass, Labels
from planners.plan import MemoryBudget, Plan, Target

CPU = Compute(device="cpu", precision="fp32", channels_last=False, threads=1, reasons=())
ONE = Labels(
    classes=(LabelClass(name="background", value=0), LabelClass(name="cell", value=1)), instance_classes=("cell",)
)
TWO = Labels(
    classes=(*ONE.classes[:1], LabelClass(name="cell, round", value=5), LabelClass(name="nucleus", value=9)),
    instance_classes=("cell, round", "nucleus"),
)
TISSUE = dataclasses.replace(TWO, instance_classes=("nucleus",))


@pytest.fixture(autouse=True)
def image_is_the_answer(monkeypatch):
    """Networks say of every voxel the class that the image has there; the device is known."""

    def logits(chain, prepared, what=None, *, each=False):
        classes = np.arange(chain.plan.labels.num_classes).reshape(-1, 1, 1, 1)
        values = 20 * (np.rint(prepared[0].image_CZYX[:1]) == classes).astype(np.float32) - 10
        resampling = chain.steps[0].configuration.resampling
        return [LogitsPart(logits_KZYX=values, grid=prepared[0].grid, resampling=resampling)]

    monkeypatch.setattr(Chain, "logits", logits)
    monkeypatch.setattr("autoseg.compute.choose", lambda *arguments, **options: CPU)


@pytest.fixture
def make_objects_run(make_configuration, tmp_path):
    """Give a function that makes a run whose target tells objects apart as components."""

    def make(labels=ONE, dimensions=2, name="run", spacing_mm=(3.0, 0.5, 0.5)):
        configuration = make_configuration(
            (8,) * dimensions,
            num_outputs=labels.num_classes,
            name=f"{dimensions}d_foreground",
            normalization=("none",),
            spacing_mm=spacing_mm[-dimensions:],
            target=Target(
                name="foreground",
                num_outputs=labels.num_classes,
                options={"dimensions": dimensions, "decode": {"smallest": 1}},
            ),
        )
        plan = Plan(
            dataset="test",
            planner="default",
            budget=MemoryBudget(),
            axis_order=(0, 1, 2),
            channels=(Channel(name="c0"),),
            labels=labels,
            configurations=(configuration,),
        )
        run = RunFolder(tmp_path / name)
        run.write(plan, run.plan_file)
        network = build_network(configuration.architecture, 1, labels.num_classes, seed=0)
        save_weights(run.fold(configuration.name, 0).weights_last, network, {"step": "0"})
        return run

    return make


def draw(*rows):
    """Draw a map of class indices, a digit per pixel."""
    return np.array([[int(digit) for digit in row] for row in rows], dtype=np.uint8)


CELLS = draw("0000000000", "0110011100", "0110010100", "0000011100", "0000000000", "0000000001")


def write_image(path, image, geometry=None):
    """Write an image whose values are class indices."""
    volume = image if image.ndim == 3 else image[None]
    geometry = geometry or (Geometry(spacing_mm=(3.0, 0.5, 0.5)) if image.ndim == 3 else flat_geometry((0.5, 0.5)))
    write_segmentation(path, volume, geometry)
    return path


def write_label(path, image, labels):
    """Write the ids of an image's components, and their classes where there is more than one."""
    told_apart = [index for index, name in enumerate(labels.names) if name in labels.instance_classes]
    ids = label_pieces(np.where(np.isin(image, told_apart), image, 0), connectivity=2)
    write_image(path, ids)
    if labels.num_classes > 2:
        write_image(path.parent / "classes" / path.name, labels.decode(image))


def read(path):
    return open_label(path).read()[0]


def rows_of(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("ending", [".png", ".tif", ".nii.gz", ".mha"])
def test_an_image_comes_back_as_ids_a_table_and_outlines(make_objects_run, tmp_path, ending, capsys):
    write_image(tmp_path / "images" / f"a{ending}", CELLS)
    (path,) = predict_folder(make_objects_run().root, tmp_path / "images", tmp_path / "out")
    assert path == tmp_path / "out" / f"a{ending}"
    opened = open_label(path)
    assert opened.dtype == np.uint8
    assert opened.geometry.dimensions == 2
    np.testing.assert_array_equal(opened.read()[0, 0], label_pieces(CELLS, connectivity=1))
    names = {item.name for item in (tmp_path / "out").iterdir()}
    assert names == {path.name, "a.objects.csv", "a.geojson", "predictions.json", "quality.json"}
    small, ring, dot = rows_of(tmp_path / "out" / "a.objects.csv")
    header = "id,class,voxels,area_mm2,diameter_mm,centroid_y,centroid_x,first_y,last_y,first_x,last_x,mean_probability"
    assert ",".join(small) == header
    assert [small["id"], small["class"], small["voxels"]] == ["1", "cell", "4"]
    assert [small["area_mm2"], small["diameter_mm"]] == ["1", "1.12838"]
    assert [small["centroid_y"], small["centroid_x"]] == ["1.500", "1.500"]
    assert [ring[key] for key in ("voxels", "first_y", "last_y", "first_x", "last_x")] == ["8", "1", "3", "5", "7"]
    assert [dot["centroid_y"], dot["centroid_x"], dot["mean_probability"]] == ["5.000", "9.000", "1.0000"]
    features = json.loads((tmp_path / "out" / "a.geojson").read_text())["features"]
    assert [feature["id"] for feature in features] == [1, 2, 3]
    assert "3 objects in 1 image\n" in capsys.readouterr().err
    record = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert record["instances"] == ["cell"]


def test_without_a_size_of_pixels_there_are_no_millimetres(make_objects_run, tmp_path, capsys):
    write_image(tmp_path / "images" / "a.png", CELLS, flat_geometry((1.0, 1.0), known=False))
    predict_folder(make_objects_run(spacing_mm=(1.0, 1.0)).root, tmp_path / "images", tmp_path / "out")
    rows = rows_of(tmp_path / "out" / "a.objects.csv")
    assert [(row["voxels"], row["area_mm2"], row["diameter_mm"]) for row in rows] == [(n, "", "") for n in "481"]
    assert "objects are measured in pixels alone (1 image)" in capsys.readouterr().err


@pytest.mark.parametrize("ending", [".tif", ".nii.gz"])
def test_a_volume_has_a_table_and_no_outlines(make_objects_run, tmp_path, ending):
    volume = np.zeros((6, 7, 8), dtype=np.uint8)
    volume[1:3, 2:5, 3:7] = 1
    volume[5, 6, 7] = 1
    write_image(tmp_path / "images" / f"v{ending}", volume)
    run = make_objects_run(dimensions=3)
    (path,) = predict_folder(run.root, tmp_path / "images" / f"v{ending}", tmp_path / "out")
    np.testing.assert_array_equal(read(path), label_pieces(volume, connectivity=1))
    assert not (tmp_path / "out" / "v.geojson").exists()
    box, dot = rows_of(tmp_path / "out" / "v.objects.csv")
    assert [box["voxels"], box["volume_mm3"], box["diameter_mm"]] == [
        "24",
        "18",
        format((108 / np.pi) ** (1 / 3), ".6g"),
    ]
    assert [box[f"centroid_{axis}"] for axis in "zyx"] == ["1.500", "3.000", "4.500"]
    assert [(box[f"first_{axis}"], box[f"last_{axis}"]) for axis in "zyx"] == [("1", "2"), ("2", "4"), ("3", "6")]
    assert dot["volume_mm3"] == "0.75"
    before = path.stat().st_mtime_ns
    predict_folder(run.root, tmp_path / "images" / f"v{ending}", tmp_path / "out")
    assert path.stat().st_mtime_ns == before, "a volume needs no outlines to be done"


@pytest.mark.parametrize("labels", [TWO, TISSUE], ids=["two classes", "one of them without objects"])
def test_several_classes_have_a_map_of_classes(make_objects_run, tmp_path, labels):
    image = draw("011002200", "011002200", "000002200", "000000000", "222011111")
    write_image(tmp_path / "images" / "a.png", image)
    write_label(tmp_path / "labels" / "a.png", image, labels)
    (path,) = predict_folder(make_objects_run(labels).root, tmp_path / "images", tmp_path / "out")
    np.testing.assert_array_equal(read(tmp_path / "out" / "classes" / "a.png")[0], np.array([0, 5, 9])[image])
    told_apart = [index for index, name in enumerate(labels.names) if name in labels.instance_classes]
    assert ((read(path)[0] > 0) == np.isin(image, told_apart)).all()
    rows = rows_of(tmp_path / "out" / "a.objects.csv")
    assert {row["class"] for row in rows} == set(labels.instance_classes)
    named = {row["id"]: row["class"] for row in rows}
    for feature in json.loads((tmp_path / "out" / "a.geojson").read_text())["features"]:
        assert feature["properties"]["classification"]["name"] == named[feature["properties"]["name"]]
    compared = evaluate_instances(tmp_path / "out", tmp_path / "labels")
    assert not compared.problems
    assert [total.metrics[0].mean.mean for total in compared.totals if total.num_labelled] == [1.0] * (
        1 + len(told_apart)
    )


def test_predictions_are_scored_as_they_lie(make_objects_run, tmp_path):
    """The table, the outlines and the record beside them are taken for nothing else."""
    rng = np.random.default_rng(0)
    for number, ending in enumerate((".png", ".tif", ".nii.gz")):
        image = (rng.random((20, 24)) < 0.4).astype(np.uint8)
        write_image(tmp_path / "images" / f"case{number}{ending}", image)
        write_label(tmp_path / "labels" / f"case{number}{ending}", image, ONE)
    predict_folder(make_objects_run().root, tmp_path / "images", tmp_path / "out")
    compared = evaluate_instances(tmp_path / "out", tmp_path / "labels", metrics=["ap@0.9", "pq"])
    assert not compared.problems
    assert [metric.pooled for metric in compared.totals[0].metrics] == [1.0, 1.0]
    images, notes = list_images(tmp_path / "out")
    assert (sorted(images), notes) == (["case0", "case1", "case2"], [])
    assert [path.name for path in list_segmentations(tmp_path / "out")] == ["case0.png", "case1.tif", "case2.nii.gz"]


def test_an_image_without_objects(make_objects_run, tmp_path):
    write_image(tmp_path / "images" / "empty.png", np.zeros((6, 7), dtype=np.uint8))
    (path,) = predict_folder(make_objects_run(TWO).root, tmp_path / "images", tmp_path / "out")
    assert not read(path).any()
    assert not read(tmp_path / "out" / "classes" / "empty.png").any()
    assert rows_of(tmp_path / "out" / "empty.objects.csv") == []
    assert json.loads((tmp_path / "out" / "empty.geojson").read_text()) == {"type": "FeatureCollection", "features": []}


def test_more_objects_than_a_png_holds(make_objects_run, tmp_path):
    """That image is told what to do; the others are done, and a TIFF holds them."""
    dots = np.zeros((514, 514), dtype=np.uint8)
    dots[::2, ::2] = 1
    write_image(tmp_path / "images" / "a.png", dots)
    write_image(tmp_path / "images" / "b.png", CELLS)
    write_image(tmp_path / "images" / "c.tif", dots)
    write_image(tmp_path / "images" / "d.png", dots[:40])
    run = make_objects_run()
    with pytest.raises(
        ImageError, match=r"1 of 4 images.*\n.*66,049 objects.*65,535\. Give the image as TIFF or NIfTI"
    ):
        predict_folder(run.root, tmp_path / "images", tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir() if path.name.startswith("a")) == []
    assert [open_label(tmp_path / "out" / name).dtype for name in ("b.png", "c.tif", "d.png")] == [
        np.uint8,
        np.int32,
        np.uint16,
    ]
    assert read(tmp_path / "out" / "c.tif").max() == 257**2


def test_python_gives_ids(make_objects_run, tmp_path):
    run = make_objects_run(TWO)
    expected = label_pieces(CELLS, connectivity=1)
    found = predict(run.root, CELLS, spacing_mm=(0.5, 0.5))
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found, expected)
    image = sitk.GetImageFromArray(CELLS)
    image.SetSpacing((0.5, 0.5))
    image.SetOrigin((7.0, -3.0))
    from_sitk = predict(run.root, image)
    assert (from_sitk.GetSpacing(), from_sitk.GetOrigin()) == ((0.5, 0.5), (7.0, -3.0))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(from_sitk), expected)
    predictor = Predictor(run.root)
    objects = predictor.objects(predictor.logits(predictor.read(image_from_array(CELLS, (0.5, 0.5)))))
    assert objects.classes.tolist() == [0, 1, 1, 1]
    np.testing.assert_allclose(objects.probabilities[1:], 1, atol=1e-6)


def test_what_is_done_is_kept_and_what_is_missing_is_made(make_objects_run, tmp_path):
    for name in ("a", "b"):
        write_image(tmp_path / "images" / f"{name}.png", CELLS)
    run, output = make_objects_run(TWO), tmp_path / "out"
    predict_folder(run.root, tmp_path / "images", output)
    files = [output / name for name in ("a.png", "a.objects.csv", "a.geojson", "classes/a.png")]
    for gone in files:
        kept = (output / "b.png").stat().st_mtime_ns
        gone.unlink()
        predict_folder(run.root, tmp_path / "images", output)
        assert all(file.exists() for file in files), gone
        assert (output / "b.png").stat().st_mtime_ns == kept
    before = (output / "b.png").stat().st_mtime_ns
    predict_folder(run.root, tmp_path / "images", output, overwrite=True)
    assert (output / "b.png").stat().st_mtime_ns > before


def test_the_ids_come_last(make_objects_run, tmp_path, monkeypatch):
    """A kill while an image is written leaves no ids, so that all is made again."""
    write_image(tmp_path / "images" / "a.png", CELLS)
    written = []

    def note(path, label, geometry):
        written.append(path)
        assert (tmp_path / "out" / "a.objects.csv").exists()
        assert (tmp_path / "out" / "a.geojson").exists()
        raise ImageError("the disk is full")

    monkeypatch.setattr(instances_module, "write_segmentation", note)
    with pytest.raises(ImageError, match="the disk is full"):
        predict_folder(make_objects_run(TWO).root, tmp_path / "images", tmp_path / "out")
    assert written == [tmp_path / "out" / "classes" / "a.png"]
    assert not (tmp_path / "out" / "a.png").exists()


def test_another_model_takes_all_files_away(make_objects_run, tmp_path):
    """Those of objects too."""
    write_image(tmp_path / "images" / "a.png", CELLS)
    output = tmp_path / "out"
    first, second = make_objects_run(TWO), make_objects_run(name="second")
    predict_folder(first.root, tmp_path / "images", output)
    with pytest.raises(OptionError, match="holds 1 predictions of another model"):
        predict_folder(second.root, tmp_path / "images", output)
    predict_folder(second.root, tmp_path / "images", output, overwrite=True)
    assert not (output / "classes").exists(), "the second model has one class"
    assert (output / "a.objects.csv").exists()


def test_files_of_the_user_stay(make_run, tmp_path):
    """Beside segmentations of classes, what is named as files of objects is the user's."""
    write_image(tmp_path / "images" / "a.nii.gz", np.ones((8, 8, 8), dtype=np.uint8))
    (output := tmp_path / "out").mkdir()
    (output / "a.geojson").write_text("mine")
    for seed in range(2):
        run = make_run((8, 8, 8), name=f"model{seed}", seed=seed)
        predict_folder(run.root, tmp_path / "images", output, overwrite=True)
    assert (output / "a.geojson").read_text() == "mine"


def test_images_in_the_folder_of_classes_are_never_replaced(make_objects_run, tmp_path):
    write_image(tmp_path / "out" / "classes" / "a.png", CELLS)
    with pytest.raises(OptionError, match="predictions would replace them"):
        predict_folder(make_objects_run(TWO).root, tmp_path / "out" / "classes", tmp_path / "out")
    np.testing.assert_array_equal(read(tmp_path / "out" / "classes" / "a.png")[0], CELLS)


@pytest.mark.parametrize("option", ["save_probabilities", "uncertainty"])
def test_what_needs_a_probability_per_voxel_is_refused(make_objects_run, tmp_path, option):
    write_image(tmp_path / "images" / "a.png", CELLS)
    with pytest.raises(OptionError, match="target foreground has no probability per voxel"):
        predict_folder(make_objects_run().root, tmp_path / "images", tmp_path / "out", **{option: True})
    assert not (tmp_path / "out").exists()


def test_a_model_of_classes_tells_no_objects_apart(make_run, tmp_path):
    predictor = Predictor(make_run((8, 8)).root)
    with pytest.raises(ModelError, match="tells no objects apart"):
        predictor.objects([])


def test_quality_tells_no_dice_and_keeps_its_warnings(make_objects_run, tmp_path, capsys):
    run = make_objects_run()
    fingerprint = Fingerprint(
        dataset="test",
        channels=(Channel(name="c0"),),
        labels=ONE,
        num_cases=2,
        spacings_mm=((999.0 * 0.5, 0.5, 0.5),) * 2,
        shapes=((1, 6, 10),) * 2,
    )
    run.write(fingerprint, run.fingerprint_file)
    write_image(tmp_path / "images" / "coarse.tif", np.tile(CELLS, (4, 4)), flat_geometry((5.0, 5.0)))
    predict_folder(run.root, tmp_path / "images", tmp_path / "out")
    quality = json.loads((tmp_path / "out" / "quality.json").read_text())
    assert "No Dice is predicted where objects are told apart" in quality["meaning"]
    (case,) = quality["cases"]
    assert case["mean"]["predicted_dice"] is None
    assert case["warnings"]
    assert "unlike the training cases: coarse" in capsys.readouterr().err
