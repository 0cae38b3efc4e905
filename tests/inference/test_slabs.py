"""An image in slabs gives what it gives as a whole: for every way of preprocessing, decoding and writing."""

import dataclasses

import numpy as np
import pytest
import SimpleITK as sitk

from autoseg.compute import Compute
from autoseg.data import regions, slab_components
from autoseg.data.io import image_from_array, open_image
from autoseg.errors import ImageError
from autoseg.evaluation.postprocessing import Postprocessing
from autoseg.inference import label_sinks, sliding_rows
from autoseg.inference.case_memory import MemoryLimit, MemoryRoom, Needs
from autoseg.inference.predictor import Predictor, predict_folder
from autoseg.inference.slabs import SlabJob, logits_on_demand
from autoseg.networks import build_network, save_weights
from autoseg.preprocessing import looking, rows
from planners.fingerprint import Intensities
from planners.plan import Input, Plan

CPU = Compute(device="cpu", precision="fp32", channels_last=False, threads=1, reasons=())
INTENSITIES = Intensities(
    mean=40.0, std=30.0, median=38.0, minimum=-500.0, maximum=900.0, percentile_00_5=-60.0, percentile_99_5=150.0
)


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    """Several slabs, blocks and chunks even for small images; and no probing of the device."""
    monkeypatch.setattr("autoseg.compute.choose", lambda *arguments, **options: CPU)
    monkeypatch.setattr(rows, "BLOCK_BYTES", 900)
    monkeypatch.setattr(looking, "LOOK_BYTES", 900)
    monkeypatch.setattr(regions, "MAP_BYTES", 700)
    monkeypatch.setattr(sliding_rows, "CHUNK_BYTES", 3000)
    monkeypatch.setattr(sliding_rows, "BAND_SLICES", 3)
    monkeypatch.setattr(slab_components, "SLAB_VOXELS", 1500)
    monkeypatch.setattr(label_sinks, "BUFFER_BYTES", 1500)
    monkeypatch.setattr("autoseg.inference.export.SLAB_BYTES", 9000)


@pytest.fixture
def in_slabs(monkeypatch):
    """Whatever the memory, images go in slabs."""
    monkeypatch.setattr(MemoryRoom, "takes_whole", lambda self, needs, name: False)


def content(shape, seed=0, dtype=np.int16):
    """Noise in a box of zeros with holes."""
    random = np.random.default_rng(seed)
    array = random.normal(40, 60, shape).round()
    array[random.random(shape) < 0.2] = 0
    array[:2], array[:, :, :3], array[:, -1:] = 0, 0, 0
    return array.astype(dtype)


def change(run, **fields):
    """Change the first configuration of a run, and its channels' intensities."""
    plan = run.read(Plan, run.plan_file)
    first = dataclasses.replace(plan.configurations[0], **fields)
    channels = tuple(dataclasses.replace(channel, intensities=INTENSITIES) for channel in plan.channels)
    plan = dataclasses.replace(plan, configurations=(first, *plan.configurations[1:]), channels=channels)
    run.write(plan, run.plan_file)
    return run


CASES = {
    "as planned": ((8, 8, 8), {}, (0, 1, 2), (1.0, 1.0, 1.0)),
    "enlarged": ((8, 8, 8), {}, (0, 1, 2), (1.3, 1.6, 1.2)),
    "reduced, axes turned": ((8, 8, 8), {}, (2, 0, 1), (0.8, 0.7, 0.9)),
    "mask": ((8, 8, 8), {"use_mask_for_norm": (True,)}, (1, 0, 2), (1.4, 1.0, 0.8)),
    "ct, thick slices": ((4, 8, 8), {"normalization": ("ct",), "spacing_mm": (4.0, 1.0, 1.0)}, (0, 1, 2), (5, 0.8, 1)),
    "thick in plane": ((8, 8, 4), {"spacing_mm": (1.0, 1.0, 4.5)}, (0, 1, 2), (0.8, 1.1, 4)),
    "range": ((8, 8, 8), {"normalization": ("rescale-0-1",)}, (0, 1, 2), (1.2, 1.2, 1.2)),
    "unchanged": ((8, 8, 8), {"normalization": ("none",)}, (0, 2, 1), (1.2, 1.2, 0.9)),
    "2d": ((8, 8), {"spacing_mm": (1.2, 1.0)}, (0, 1, 2), (3.0, 1.0, 1.3)),
}


@pytest.mark.parametrize("name", CASES)
def test_equals_the_whole_way(make_run, name):
    patch, fields, order, spacing_mm = CASES[name]
    run = change(make_run(patch, folds=(0,), axis_order=order, seed=2), **fields)
    predictor = Predictor(run.root)
    array = content((15, 21, 19))
    image = image_from_array(array, spacing_mm)
    prepared = predictor.read(image)
    whole = predictor.logits(prepared)
    expected = predictor.segment(whole)
    with SlabJob(predictor.chain, predictor.target, image) as job:
        made = job._prepare()
        assert made[0].grid == prepared[0].grid
        shape = made[0].grid.shape
        found = np.concatenate([made[0].rows(at, min(at + 2, shape[0])) for at in range(0, shape[0], 2)], axis=1)
        np.testing.assert_allclose(found, prepared[0].image_CZYX, atol=2e-5 * np.ptp(prepared[0].image_CZYX))
        (part,) = logits_on_demand(predictor.chain, made, CPU)
        logits = np.concatenate([part.logits_KZYX.rows(at, at + 1) for at in range(shape[0])], axis=1)
        np.testing.assert_allclose(logits, whole[0].logits_KZYX, atol=1e-3)
        watched, segmentation = job.segment(None, ())
    assert segmentation.shape == array.shape
    assert segmentation.dtype == expected.dtype
    assert len(np.unique(expected)) > 1
    assert (segmentation != expected).mean() < 1e-3  # voxels where two classes are equal but for rounding
    assert any(value is not None for value in watched.expected_dice)


@pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".mha", ".nrrd", ".tif"])
def test_files_are_those_of_the_whole_way(make_run, tmp_path, in_slabs, ending):
    run = make_run((8, 8, 8), axis_order=(2, 0, 1))
    (tmp_path / "images").mkdir()
    sitk_image = sitk.GetImageFromArray(content((13, 12, 14)))
    if ending != ".tif":
        sitk_image.SetSpacing((1.2, 1.0, 0.9))
        sitk_image.SetDirection((0.0, -1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0))
    path = tmp_path / "images" / f"über eins{ending}"
    sitk.WriteImage(sitk_image, str(path))
    (file,) = predict_folder(run.root, path, tmp_path / "slabs", device="cpu")
    opened = Predictor(run.root)
    whole = opened.segment(opened.logits(opened.read(open_image([path]))))
    found = open_image([file])
    assert file.name == path.name
    assert (found.read()[0] != whole).mean() < 1e-3
    assert found.dtype == np.uint8
    assert found.geometry == open_image([path]).geometry
    left = {item.name for item in (tmp_path / "slabs").iterdir()} - {file.name, "predictions.json", "quality.json"}
    assert left <= {"über eins.json"}


@pytest.mark.parametrize("rule", ["largest-component", "remove-small", "fill-holes"])
def test_postprocessing(make_run, tmp_path, in_slabs, rule):
    rules = (Postprocessing(rule=rule, name="rim", classes=(1, 2), size_mm3=30.0 if rule == "remove-small" else None),)
    run = make_run((8, 8, 8), folds=(0,), choice={"folds": (0,), "postprocessing": rules})
    array = content((13, 14, 15))
    predictor = Predictor(run.root)
    image = image_from_array(array, (1.0, 1.2, 0.9))
    whole = predictor.segment(predictor.logits(predictor.read(image)))
    assert (predictor.predict(image) != whole).mean() < 5e-3
    sitk.WriteImage(sitk.GetImageFromArray(array), str(tmp_path / "image.nii"))
    (file,) = predict_folder(run.root, tmp_path / "image.nii", tmp_path / "out")
    whole = predictor.segment(predictor.logits(predictor.read(open_image([tmp_path / "image.nii"]))))
    assert (open_image([file]).read()[0] != whole).mean() < 5e-3


def test_ensemble_of_configurations_and_folds(make_run):
    run = make_run((8, 8, 8), (8, 8), choice={"configurations": ("3d", "2d1"), "folds": (0, 1)})
    predictor = Predictor(run.root)
    image = image_from_array(content((9, 14, 12)), (1.3, 1.0, 0.9))
    whole = predictor.segment(predictor.logits(predictor.read(image)))
    with SlabJob(predictor.chain, predictor.target, image) as job:
        _, found = job.segment(None, ())
    assert (found != whole).mean() < 1e-3


def test_a_cascade(make_run):
    run = make_run((8, 8, 8), (8, 8, 8), folds=(0,))
    plan = run.read(Plan, run.plan_file)
    low, full = plan.configurations
    low = dataclasses.replace(low, name="low", spacing_mm=(1.5, 1.5, 1.5))
    inputs = (*full.inputs, Input(kind="previous", name="low", channels=2))
    full = dataclasses.replace(full, name="full", inputs=inputs, previous="low")
    run.write(dataclasses.replace(plan, configurations=(low, full)), run.plan_file)
    for item in (low, full):
        network = build_network(item.architecture, item.num_input_channels, 3, seed=1)
        save_weights(run.fold(item.name, 0).weights_last, network, {"step": "0"})
    run.choice_file.unlink(missing_ok=True)
    full_only = {"configurations": ("full",), "folds": (0,)}
    predictor = Predictor(make_choice_of(run, full_only).root)
    image = image_from_array(content((11, 14, 12)), (1.0, 1.0, 1.0))
    whole = predictor.segment(predictor.logits(predictor.read(image)))
    with SlabJob(predictor.chain, predictor.target, image) as job:
        _, found = job.segment(None, ())
    assert len(predictor.chain.steps) == 2
    assert (found != whole).mean() < 1e-3


def make_choice_of(run, choice):
    """Write the choice of a run."""
    from autoseg.evaluation.selection import Choice

    found = Choice(
        configurations=choice["configurations"], folds=choice["folds"], postprocessing=(), structures=("rim", "core"),
        num_cases=4, mean_dice=0.5, mean_iou=0.4, dice=(0.5, 0.5), candidates=(), trials=(), reasons=(),
    )  # fmt: skip
    run.write(found, run.choice_file)
    return run


def test_voxels_that_are_no_numbers(make_run):
    predictor = Predictor(make_run((8, 8, 8), folds=(0,)).root)
    array = content((9, 12, 11), dtype=np.float32)
    array[4, 5, 6], array[1, 3, 3] = np.nan, np.inf
    image = image_from_array(array, (1.0, 1.0, 1.0))
    whole = predictor.segment(predictor.logits(predictor.read(image)))
    with SlabJob(predictor.chain, predictor.target, image) as job:
        _, found = job.segment(None, ())
    assert (found != whole).mean() < 1e-3


def test_what_was_seen_is_what_the_judge_sees():
    from autoseg.inference.familiarity import see

    array = np.stack([content((9, 12, 11)), content((9, 12, 11), 1)])
    assert looking.look_at(image_from_array(array, (1.0, 1.0, 1.0))) == see(array)


def test_nothing_half_is_left_behind(make_run, tmp_path, in_slabs, monkeypatch):
    run = make_run((8, 8, 8), folds=(0,))
    sitk.WriteImage(sitk.GetImageFromArray(content((13, 12, 14))), str(tmp_path / "image.nii.gz"))
    written, put = [], label_sinks.RegionWriter.put

    def failing(self, box, values):
        put(self, box, values)
        written.append(self.temporary)
        raise KeyboardInterrupt

    monkeypatch.setattr(label_sinks.RegionWriter, "put", failing)
    with pytest.raises(KeyboardInterrupt):
        predict_folder(run.root, tmp_path / "image.nii.gz", tmp_path / "out")
    assert written
    assert {item.name for item in (tmp_path / "out").iterdir()} <= {"predictions.json", "quality.json"}
    monkeypatch.undo()
    monkeypatch.setattr("autoseg.compute.choose", lambda *arguments, **options: CPU)
    assert [file.name for file in predict_folder(run.root, tmp_path / "image.nii.gz", tmp_path / "out")] == [
        "image.nii.gz"
    ]


def test_the_way_follows_from_the_estimate():
    room = MemoryRoom(free=100, most=120, held=50)
    assert room.takes_whole(Needs(whole=100, slabs=10), "a")
    assert not room.takes_whole(Needs(whole=101, slabs=120), "a")
    with pytest.raises(ImageError, match=r"a needs .* as a whole, in slabs .*--max-ram"):
        room.takes_whole(Needs(whole=1000, slabs=121), "a")
    assert room.takes_whole(Needs(whole=110, slabs=130), "a")  # what slabs save is less than they need beside
    assert room.takes_whole(Needs(whole=1000, slabs=0, because="objects"), "a")  # only an estimate
    asked = MemoryRoom(free=100, most=100, held=50, max_ram=150)
    with pytest.raises(ImageError, match="and no slabs: objects"):
        asked.takes_whole(Needs(whole=1000, slabs=0, because="objects"), "a")
    limit = MemoryLimit(10**15).now()
    assert limit.free < 10**15
    assert MemoryLimit(1).now().free < 0


def test_what_cannot_fit_is_refused_before_it_is_read(make_run, tmp_path):
    run = make_run((8, 8, 8), folds=(0,))
    sitk.WriteImage(sitk.GetImageFromArray(content((13, 12, 14))), str(tmp_path / "image.nii"))
    with pytest.raises(ImageError, match=r"image.nii needs .* as a whole, in slabs .*; --max-ram 10 MB leaves"):
        predict_folder(run.root, tmp_path / "image.nii", tmp_path / "out", max_ram="10MB")
