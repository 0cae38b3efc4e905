"""Maps of uncertainty equal a slow count over whole arrays, change no segmentation, and lie beside it in its format."""

import json
import time
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from autoseg.compute import Compute
from autoseg.data.folders import list_images
from autoseg.data.io import image_from_array, open_image
from autoseg.errors import ImageError, OptionError
from autoseg.evaluation.folders import evaluate_folders
from autoseg.inference import each_memory, export
from autoseg.inference.export import LogitsPart, segment
from autoseg.inference.folder import FolderJob
from autoseg.inference.predictor import Predictor, predict_folder
from autoseg.inference.uncertainty import SCALE, UncertaintyWatcher
from autoseg.targets import make_target
from planners.labels import Region
from planners.plan import Plan, Target, Training

CPU = Compute(device="cpu", precision="fp32", channels_last=False, threads=2, reasons=())


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """The device is known; images have several slabs."""
    monkeypatch.setattr("autoseg.compute.choose", lambda *arguments, **options: CPU)
    monkeypatch.setattr(export, "SLAB_BYTES", 2**13)


def random_image(shape=(9, 12, 14), seed=0):
    return image_from_array(np.random.default_rng(seed).normal(size=shape).astype(np.float32) * 100, (1.0, 1.2, 1.5))


def slow_entropy(probabilities, overlapping):
    """In float64, over whole arrays."""
    p = np.clip(probabilities.astype(np.float64), 1e-300, 1)
    if overlapping:
        q = np.clip(1 - probabilities.astype(np.float64), 1e-300, 1)
        return -(p * np.log2(p) + q * np.log2(q)).mean(0)
    return -(p * np.log(p)).sum(0) / np.log(len(p))


def slow_maps(parts, target, plan):
    """Decode every network by itself, whole, as if it were the only one; then average."""

    def whole(part, logits):
        seen = np.zeros((len(logits), *part.grid.shape_before_crop), np.float32)
        if target.name == "semantic":
            seen[0] = 1

        def keep(slab):
            for volume, values in zip(seen, slab.probabilities_KZYX, strict=True):
                slab.look_at(volume.transpose(np.argsort(plan.axis_order)))[...] = values

        segment([LogitsPart(logits_KZYX=logits, grid=part.grid, resampling=part.resampling)], target, plan, watch=keep)
        return seen.transpose(0, *(1 + np.argsort(plan.axis_order)))

    overlapping = target.name == "regions"
    weights = np.array([part.weight for part in parts]) / sum(part.weight for part in parts)
    mixed = sum(w * whole(part, part.logits_KZYX) for w, part in zip(weights, parts, strict=True))
    each = [
        (weight / len(part.alone_KZYX), whole(part, logits.astype(np.float32)))
        for weight, part in zip(weights, parts, strict=True)
        for logits in part.alone_KZYX
    ]
    mean = sum(weight * item for weight, item in each)
    apart = slow_entropy(mean, overlapping) - sum(weight * slow_entropy(item, overlapping) for weight, item in each)
    return slow_entropy(mixed, overlapping), apart


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
@pytest.mark.parametrize("kind", ["semantic", "regions"])
def test_maps_equal_the_slow_way(make_run, order, kind):
    """Two configurations on different grids, 2D and 3D, with weights; two folds each; the image cropped."""
    run = make_run((8, 8, 8), (8, 8), axis_order=order, choice={"configurations": ("3d", "2d1")})
    predictor = Predictor(run.root)
    image = random_image()
    image.array[:, :2] = 0  # is cropped
    plan, target = predictor.plan, predictor.target
    if kind == "regions":
        values = plan.labels.values
        regions = tuple(Region(name=str(index), values=values[index:]) for index in (1, 2))
        labels = type(plan.labels)(classes=plan.labels.classes, regions=regions)
        target = make_target(Target(name="regions", num_outputs=2), labels, Training())
    parts = predictor.logits(predictor.read(image), each=True)
    if kind == "regions":
        parts = [keep_outputs(part, 2) for part in parts]
    parts[1] = LogitsPart(**{**vars(parts[1]), "weight": 0.4})
    assert [len(part.alone_KZYX) for part in parts] == [2, 2]
    watcher = UncertaintyWatcher(parts, target, order)
    with_maps = segment(parts, target, plan, threads=3, watch=watcher)
    np.testing.assert_array_equal(with_maps, segment(parts, target, plan))
    entropy, disagreement = slow_maps(parts, target, plan)
    np.testing.assert_allclose(watcher.entropy / SCALE, entropy, atol=0.51 / SCALE)
    np.testing.assert_allclose(watcher.disagreement / SCALE, disagreement, atol=0.51 / SCALE)
    assert entropy.max() > 0.5
    assert watcher.disagreement.max() > 3
    assert not watcher.entropy[:2].any()


def keep_outputs(part, count):
    alone = tuple(item[:count] for item in part.alone_KZYX)
    return LogitsPart(**{**vars(part), "logits_KZYX": part.logits_KZYX[:count], "alone_KZYX": alone})


def test_the_networks_alone_average_to_the_whole(make_run):
    """What is kept of each is what it says by itself, and the mean is bit for bit the one of a prediction without."""
    run = make_run((8, 8, 8), choice={})
    predictor, image = Predictor(run.root), random_image()
    prepared = predictor.read(image)
    (with_each,), (without,) = predictor.logits(prepared, each=True), predictor.logits(prepared)
    np.testing.assert_array_equal(with_each.logits_KZYX, without.logits_KZYX)
    assert not without.alone_KZYX
    assert {item.dtype for item in with_each.alone_KZYX} == {np.dtype(np.float16)}
    mean = np.mean([item.astype(np.float32) for item in with_each.alone_KZYX], axis=0)
    np.testing.assert_allclose(mean, without.logits_KZYX, rtol=2e-3, atol=2e-3)
    assert np.abs(with_each.alone_KZYX[0] - with_each.alone_KZYX[1]).max() > 0.01


def test_equal_networks_do_not_disagree_and_certain_ones_have_no_entropy(make_run):
    predictor = Predictor(make_run((8, 8, 8), choice={}).root)
    (part,) = predictor.logits(predictor.read(random_image()), each=True)
    sure = (part.logits_KZYX == part.logits_KZYX.max(0)) * np.float32(100)
    other = np.roll(sure, 1, axis=0)
    equal = LogitsPart(**{**vars(part), "logits_KZYX": sure, "alone_KZYX": (sure.astype(np.float16),) * 2})
    watcher = UncertaintyWatcher([equal], predictor.target, (0, 1, 2))
    segment([equal], predictor.target, predictor.plan, watch=watcher)
    assert watcher.entropy.mean() < 20  # where two neighbours meet, interpolation is undecided
    assert watcher.disagreement.max() == 0
    apart = LogitsPart(**{**vars(equal), "alone_KZYX": (sure.astype(np.float16), other.astype(np.float16))})
    watcher = UncertaintyWatcher([apart], predictor.target, (0, 1, 2))
    segment([apart], predictor.target, predictor.plan, watch=watcher)
    assert np.median(watcher.disagreement) == round(SCALE * np.log(2) / np.log(3))  # one bit, of ln 3


def write_image(path, seed, shape=(9, 12, 14)):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray((np.random.default_rng(seed).normal(size=shape) * 90).astype(np.int16))
    image.SetSpacing((1.5, 1.0, 1.2)[: len(shape)])
    if len(shape) == 3:
        image.SetOrigin((-12.5, 30.0, 7.0))
        image.SetDirection((0.0, -1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0))
    sitk.WriteImage(image, str(path))


def test_maps_lie_beside_the_segmentation_in_its_format_and_place(make_run, tmp_path):
    run = make_run((8, 8, 8), choice={})
    for seed, name in enumerate(("a.nii.gz", "b.nrrd", "c.mha", "d.tif")):
        write_image(tmp_path / "images" / name, seed)
    plain = predict_folder(run.root, tmp_path / "images", tmp_path / "plain")
    written = predict_folder(run.root, tmp_path / "images", tmp_path / "out", uncertainty=True)
    for file, without in zip(written, plain, strict=True):
        image = open_image([tmp_path / "images" / file.name])
        np.testing.assert_array_equal(open_image([file]).read(), open_image([without]).read())
        for kind in ("entropy", "disagreement"):
            found = open_image([file.with_name(file.name.replace(".", f".{kind}.", 1))])
            values = found.read()
            assert found.shape == image.shape
            assert found.geometry.displacement(image.geometry, image.shape) < 1e-3
            assert values.dtype == np.uint8
            assert values.any()
    found, _ = list_images(tmp_path / "out")  # maps are no predictions of their own
    assert sorted(found) == ["a", "b", "c", "d"]
    assert not evaluate_folders(tmp_path / "out", tmp_path / "plain").problems
    (tmp_path / "out" / "a.nii.gz").unlink()
    assert "a.entropy" in list_images(tmp_path / "out")[0]  # alone it may be a case of that name


def test_2d_images_become_png(make_run, tmp_path):
    run = make_run((8, 8), choice={"configurations": ("2d",)})
    images = tmp_path / "images"
    images.mkdir()
    picture = np.random.default_rng(0).integers(0, 255, (20, 30), dtype=np.uint8)
    sitk.WriteImage(sitk.GetImageFromArray(picture), str(images / "cell.jpg"))
    predict_folder(run.root, images, tmp_path / "out", uncertainty=True)
    for kind in ("entropy", "disagreement"):
        assert sitk.ReadImage(str(tmp_path / "out" / f"cell.{kind}.png")).GetSize() == (30, 20)


def test_an_image_that_does_not_fit_is_named_and_the_others_are_done(make_run, tmp_path, monkeypatch):
    """The free memory is as large as the smaller image needs; before its turn the larger one is refused."""
    run = make_run((8, 8, 8), choice={})
    write_image(tmp_path / "images" / "large.nii.gz", 0, (30, 24, 24))
    write_image(tmp_path / "images" / "small.nii.gz", 1)
    predictor = Predictor(run.root)
    shape = predictor.read(open_image([tmp_path / "images" / "small.nii.gz"]))[0].grid.shape
    free = 3 * int(np.prod(shape)) * (4 + 4 + 2 * 2)  # three outputs: mean, sums of one network, two rounded
    monkeypatch.setattr(each_memory, "host_memory_bytes", lambda: free)
    with pytest.raises(
        ImageError, match=r"1 of 2 images.*\n  case large: maps of uncertainty from 2 networks need .* MB"
    ):
        predict_folder(run.root, tmp_path / "images", tmp_path / "out", uncertainty=True)
    plain = predict_folder(run.root, tmp_path / "images", tmp_path / "plain")[1]
    np.testing.assert_array_equal(open_image([tmp_path / "out" / plain.name]).read(), open_image([plain]).read())
    assert (tmp_path / "out" / "small.disagreement.nii.gz").exists()
    assert not (tmp_path / "out" / "large.nii.gz").exists()
    monkeypatch.setattr(each_memory, "host_memory_bytes", lambda: free - 1)
    with pytest.raises(ImageError, match=r"none of 1 images.*\n.*of which .* are free. Leave --uncertainty out"):
        predict_folder(run.root, tmp_path / "images" / "small.nii.gz", tmp_path / "less", uncertainty=True)


def test_an_image_waits_for_the_memory_of_the_one_before(make_run, tmp_path, monkeypatch):
    """What does not fit beside an image that is still being written does so afterwards."""
    run = make_run((8, 8, 8), choice={})
    for seed, name in enumerate("ab"):
        write_image(tmp_path / "images" / f"{name}.nii.gz", seed)
    job = FolderJob(Predictor(run.root), tmp_path / "out", uncertainty=True)
    monkeypatch.setattr(each_memory, "host_memory_bytes", lambda: 0 if job._num_unwritten else 10**9)
    original = FolderJob._write_all

    def slowly(*arguments):
        time.sleep(0.3)
        original(*arguments)

    monkeypatch.setattr(FolderJob, "_write_all", slowly)
    from autoseg.data.cases import Case

    cases = [Case(id=name, images=(tmp_path / "images" / f"{name}.nii.gz",)) for name in "ab"]
    assert all(path.exists() for path in job.run(cases, {}))


def test_maps_count_as_part_of_what_is_done(make_run, tmp_path, capsys):
    run = make_run((8, 8, 8), choice={})
    for seed in range(2):
        write_image(tmp_path / "images" / f"c{seed}.nii.gz", seed)

    def predict(**options):
        predict_folder(run.root, tmp_path / "images", tmp_path / "out", **options)
        text = capsys.readouterr().err
        return "2 of 2 images are segmented already" in text or ("1 of 2" in text and "one"), text

    assert predict()[0] is False
    assert predict()[0] is True
    assert predict(uncertainty=True)[0] is False  # the maps are missing
    assert predict(uncertainty=True)[0] is True
    (tmp_path / "out" / "c1.disagreement.nii.gz").unlink()
    assert predict()[0] is True
    assert predict(uncertainty=True)[0] == "one"
    quality = json.loads((tmp_path / "out" / "quality.json").read_text())
    assert [case["case"] for case in quality["cases"]] == ["c0", "c1"]


def test_another_model_takes_old_maps_away(make_run, tmp_path):
    write_image(tmp_path / "images" / "c.nii.gz", 0)
    for seed in (0, 7):
        run = make_run((8, 8, 8), choice={}, name=f"run{seed}", seed=seed)
        predict_folder(run.root, tmp_path / "images", tmp_path / "out", uncertainty=seed == 0, overwrite=True)
    assert not list((tmp_path / "out").glob("*.entropy.*"))


def test_one_network_cannot_disagree(make_run, tmp_path, capsys):
    run = make_run((8, 8, 8), folds=(0,), choice={"folds": (0,)})
    write_image(tmp_path / "images" / "c.nii.gz", 0)
    predict_folder(run.root, tmp_path / "images", tmp_path / "out", uncertainty=True)
    assert (tmp_path / "out" / "c.entropy.nii.gz").exists()
    assert not (tmp_path / "out" / "c.disagreement.nii.gz").exists()
    assert "one network alone cannot disagree" in capsys.readouterr().err
    predict_folder(run.root, tmp_path / "images", tmp_path / "out", uncertainty=True)
    assert "1 of 1 images are segmented already" in capsys.readouterr().err


def test_a_cascade_disagrees_in_its_last_stage(make_run, make_configuration, tmp_path):
    from autoseg.networks import build_network, save_weights
    from planners.plan import Input

    run = make_run((8, 8, 8), choice={})
    plan = run.read(Plan, run.plan_file)
    fed = make_configuration(
        (8, 8, 8), name="next", inputs=(Input(channels=1), Input(kind="previous", name="3d", channels=2)), previous="3d"
    )
    run.write(type(plan)(**{**vars(plan), "configurations": (*plan.configurations, fed)}), run.plan_file)
    for fold in (0, 1):
        save_weights(
            run.fold("next", fold).weights_last, build_network(fed.architecture, 3, 3, seed=fold), {"step": "0"}
        )
    choice = json.loads(run.choice_file.read_text())
    run.choice_file.write_text(json.dumps({**choice, "configurations": ["next"]}))
    predictor = Predictor(run.root)
    parts = predictor.logits(predictor.read(random_image()), each=True)
    assert [len(part.alone_KZYX) for part in parts] == [2]
    watcher = UncertaintyWatcher(parts, predictor.target, plan.axis_order)
    segment(parts, predictor.target, predictor.plan, watch=watcher)
    _, disagreement = slow_maps(parts, predictor.target, predictor.plan)
    np.testing.assert_allclose(watcher.disagreement / SCALE, disagreement, atol=0.51 / SCALE)


def test_what_cannot_have_maps_is_refused(make_run, tmp_path):
    run = make_run((8, 8, 8), choice={})
    for name in ("c.nii.gz", "c.entropy.mha"):
        write_image(tmp_path / "images" / name, 0)
    predictor = Predictor(run.root)
    job = FolderJob(predictor, tmp_path / "out", uncertainty=True)
    from autoseg.data.cases import Case

    clash = [Case(id=name, images=(Path(f"{name}.nii.gz"),)) for name in ("c", "c.entropy")]
    with pytest.raises(OptionError, match=r"c\.entropy\.nii\.gz would be a segmentation and a map"):
        job.run(clash, {})

    class Whole:
        name, pointwise = "whole", False

    predictor.target = Whole()
    with pytest.raises(OptionError, match="no probability per voxel, so no uncertainty"):
        FolderJob(predictor, tmp_path / "out", uncertainty=True)
