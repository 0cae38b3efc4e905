"""Folders of instances: scored as the arrays are, every misfit named, and the presets' rules kept."""

import dataclasses
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as Picture
from scipy.optimize import linear_sum_assignment

from autoseg.data.image import Geometry, flat_geometry
from autoseg.data.io import write_segmentation
from autoseg.data.parallel import MemoryGate
from autoseg.errors import DatasetError, OptionError
from autoseg.evaluation import instance_metrics
from autoseg.evaluation.contingency import CHUNK_BYTES, contingency
from autoseg.evaluation.instance_folders import InstanceComparison, evaluate_instances
from autoseg.evaluation.instance_metrics import INSTANCE_METRICS, parse_instance_metrics
from planners import records

Folders = tuple[Path, Path]
Pairs = list[tuple[np.ndarray, np.ndarray]]


def write(path: Path, ids: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    volume = ids if ids.ndim == 3 else ids[None]
    geometry = flat_geometry() if ids.ndim == 2 else Geometry(spacing_mm=(2.0, 1.0, 1.0))
    write_segmentation(path, volume, geometry)


def objects(*rows: str) -> np.ndarray:
    """Draw a map, a digit per pixel."""
    return np.array([[int(digit) for digit in row] for row in rows])


LABEL = objects("000000000", "011022200", "011022200", "011022200", "000000000", "000000000", "003333000", "000000000")


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    return tmp_path / "predictions", tmp_path / "labels"


@pytest.fixture
def some(folders: Folders, random_pairs: Pairs) -> Pairs:
    """Write drawn pairs, among them the empty ones, in several formats."""
    pairs = random_pairs[:14]
    for index, (label, prediction) in enumerate(pairs):
        ending = ".nii.gz" if label.ndim == 3 else ".tif"
        write(folders[1] / f"case_{index:02d}{ending}", label)
        write(folders[0] / f"case_{index:02d}{ending if index % 2 else '.nii.gz'}", prediction)
    return pairs


def test_scores_equal_those_of_the_arrays(folders: Folders, some: Pairs) -> None:
    names = [*INSTANCE_METRICS, "ap@0.5", "f1@0.75"]
    comparison = evaluate_instances(*folders, metrics=names)
    measures = parse_instance_metrics(names)
    assert comparison.problems == ()
    assert comparison.metrics == tuple(names)
    assert len(comparison.cases) == len(some)
    expected = [[m.value(m.parts(contingency(*pair))) for m in measures] for pair in some]
    for case, values, pair in zip(comparison.cases, expected, some, strict=True):
        (scores,) = case.scores
        assert list(scores.values) == values
        assert (scores.num_labelled, scores.num_predicted) == tuple(len(np.setdiff1d(ids, 0)) for ids in pair)
    for place, summary in enumerate(comparison.totals[0].metrics):
        present = [row[place] for row in expected if row[place] is not None]
        assert summary.mean is not None
        assert summary.mean.mean == pytest.approx(np.mean(present))
        assert summary.median == pytest.approx(np.median(present))
        assert (summary.lowest, summary.highest) == (min(present), max(present))
        assert summary.num_undefined == len(expected) - len(present)


def test_labels_in_colours_are_ids(folders: Folders) -> None:
    predictions, labels = folders
    write(predictions / "a.tif", LABEL)
    labels.mkdir()
    colours = np.stack([LABEL * 80, 255 * (LABEL == 2), LABEL], axis=-1).astype(np.uint8)
    Picture.fromarray(colours).save(labels / "a.png")
    comparison = evaluate_instances(predictions, labels, metrics=("ap@0.9",))
    (group,) = comparison.cases[0].scores
    assert (group.values, group.num_labelled) == ((1.0,), 3)


def test_pooled_scores_are_those_of_all_images_side_by_side(folders: Folders, some: Pairs) -> None:
    flat, start = [[], []], 0
    for pair in some:
        for parts, ids in zip(flat, pair, strict=True):
            parts.append(np.where(ids == 0, 0, np.searchsorted(np.unique(ids), ids) + 1 + start).ravel())
        start += 1000
    table = contingency(*(np.concatenate(parts) for parts in flat))
    comparison = evaluate_instances(*folders, metrics=list(INSTANCE_METRICS))
    for measure, summary in zip(
        parse_instance_metrics(list(INSTANCE_METRICS)), comparison.totals[0].metrics, strict=True
    ):
        expected = measure.value(measure.parts(table)) if measure.metric.pooled else None
        assert summary.pooled == (None if expected is None else pytest.approx(expected)), measure.name


def test_found_objects_give_the_curve(folders: Folders, some: Pairs) -> None:
    comparison = evaluate_instances(*folders, metrics=[f"ap@{threshold:g}" for threshold in instance_metrics.CURVE])
    for case in comparison.cases:
        (row,) = case.scores
        n, m = row.num_labelled, row.num_predicted
        assert row.values == tuple(tp / (n + m - tp) if n + m else None for tp in row.found)


def test_every_misfit_is_named_and_the_rest_scored(folders: Folders) -> None:
    predictions, labels = folders
    for name in ("good", "missing", "smaller", "negative", "fraction", "twice", "broken"):
        write(labels / f"{name}.nii.gz", LABEL[None])
    for name in ("good", "extra", "twice"):
        write(predictions / f"{name}.nii.gz", LABEL[None])
    write(predictions / "twice.mha", LABEL[None])
    write(predictions / "smaller.nii.gz", LABEL[None, 1:])
    write(predictions / "negative.nii.gz", LABEL[None] - 2)
    import SimpleITK

    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(LABEL[None] + 0.5), str(predictions / "fraction.nii.gz"))
    large = SimpleITK.GetImageFromArray(np.where(LABEL[None] > 0, np.uint64(2**63), np.uint64(0)))
    SimpleITK.WriteImage(large, str(predictions / "large.mha"))
    write(labels / "large.nii.gz", LABEL[None])
    (predictions / "broken.nii.gz").write_bytes(b"no image")
    (predictions / "notes.txt").write_text("not an image")
    comparison = evaluate_instances(predictions, labels)
    assert [case.case for case in comparison.cases] == ["good"]
    text = "\n".join(comparison.problems)
    for part in (
        "no prediction for 1 case (missing)",
        "no label for 1 case (extra)",
        "smaller.nii.gz has shape 1×7×9",
        "negative.nii.gz holds the id -2",
        "fraction.nii.gz holds fractions",
        "large.mha holds the id 9223372036854775808",
        "twice: two files of one name",
        "broken.nii.gz",
    ):
        assert part in text
    assert (len(comparison.problems), comparison.num_left_out) == (8, 8)
    assert (comparison.without_prediction, comparison.without_label) == (("missing",), ("extra",))
    assert "1 image compared, 8 images not:" in comparison.text()


def test_nothing_in_common_is_an_error(folders: Folders) -> None:
    write(folders[0] / "a.png", LABEL)
    write(folders[1] / "b.png", LABEL)
    with pytest.raises(DatasetError, match=r"no prediction for 1 case \(b\)"):
        evaluate_instances(*folders)
    with pytest.raises(DatasetError, match="does not exist"):
        evaluate_instances(folders[0] / "nowhere", folders[1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metrics": ["dice"]}, "no instance metric is named 'dice'"),
        ({"metrics": ["pq@0.5"]}, "pq takes no threshold"),
        ({"metrics": ["ap@1.5"]}, "no IoU above 0"),
        ({"metrics": ["ap@half"]}, "no IoU above 0"),
        ({"protocol": "neurips"}, "did you mean 'neurips22'"),
    ],
)
def test_unknown_options_name_what_there_is(folders: Folders, options: dict[str, Any], message: str) -> None:
    write(folders[1] / "a.png", LABEL)
    with pytest.raises(OptionError, match=message):
        evaluate_instances(*folders, **options)


def test_two_files_are_compared_whatever_their_names(folders: Folders) -> None:
    write(folders[0] / "guess.tif", LABEL)
    write(folders[1] / "truth.png", LABEL)
    comparison = evaluate_instances(folders[0] / "guess.tif", folders[1] / "truth.png")
    assert comparison.cases[0].case == "truth"
    assert comparison.cases[0].scores[0].values[0] == 1.0


def test_the_record_survives_its_file(folders: Folders, some: Pairs) -> None:
    comparison = evaluate_instances(*folders)
    assert records.from_json(InstanceComparison, json.loads(records.dumps(comparison))) == comparison
    rows = [line.split(",") for line in comparison.csv().splitlines()]
    assert rows[0][:3] == ["case", "group", "ap@0.5"]
    assert len(rows) == len(some) + 1
    assert rows[1][2] == ""  # both are empty
    assert float(rows[4][2]) == comparison.cases[3].scores[0].values[0]


def test_the_text_says_means_medians_and_what_is_left_out(folders: Folders, some: Pairs) -> None:
    text = evaluate_instances(*folders).text()
    assert text.startswith(
        "protocol default (objects found, outlined and counted), 14 images; * is the number to report"
    )
    for part in (
        "mean*  median  pooled",
        "AP @ 0.5 ",
        "AP @ 0.5…0.95 ",
        "left out of these",
        "  1 image without AP @ 0.5,",
    ):
        assert part in text
    assert "worst images by AP @ 0.5" in text


def test_a_mask_given_as_instances_is_named(folders: Folders) -> None:
    for case in "abcdefg":
        write(folders[1] / f"{case}.png", LABEL)
        write(folders[0] / f"{case}.png", (LABEL > 0) * 255)
    comparison = evaluate_instances(*folders, protocol="neurips22")
    assert comparison.cases[0].scores[0].num_predicted == 0  # it touches the frame
    assert len(comparison.hints) == 7
    assert "a.png holds one object (id 255) in 3 pieces: it looks like a mask" in comparison.hints[0]
    assert "and 2 more (--json has all)" in comparison.text()
    write(folders[0] / "a.png", (LABEL == 2) * 7)
    assert evaluate_instances(folders[0] / "a.png", folders[1] / "a.png").hints == ()


def test_voxels_of_the_ignore_label_do_not_count(folders: Folders) -> None:
    label = np.where(LABEL == 3, 255, LABEL)
    write(folders[1] / "a.png", label)
    write(folders[0] / "a.png", np.where(LABEL == 3, 0, LABEL))
    assert evaluate_instances(*folders).cases[0].scores[0].values[0] == 2 / 3
    (folders[1] / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "cell": 1, "ignore": 255}}))
    assert evaluate_instances(*folders).cases[0].scores[0].values[0] == 1


def test_each_class_is_measured_by_itself_where_class_maps_are_given(folders: Folders) -> None:
    classes = np.select([LABEL == 1, LABEL > 1], [1, 2], 0)
    for folder in folders:
        write(folder / "a.png", LABEL)
        write(folder / "classes" / "a.png", classes)
        write(folder / "b.png", LABEL * (LABEL == 1))
        write(folder / "classes" / "b.png", classes * (LABEL == 1))
    write(folders[0] / "classes" / "a.png", np.select([LABEL == 1, LABEL == 2, LABEL == 3], [1, 2, 1], 0))
    (folders[1].parent / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "round": 1, "long": 2}}))
    comparison = evaluate_instances(*folders, metrics=["f1@0.5", "count_error"])
    assert comparison.groups == ("all objects", "round", "long")
    first, second = (case.scores for case in comparison.cases)
    assert [row.values for row in first] == [(1.0, 0.0), (2 / 3, 1.0), (2 / 3, -1.0)]
    assert [row.values for row in second] == [(1.0, 0.0), (1.0, 0.0), (None, 0.0)]
    assert comparison.class_mean[0] == pytest.approx(((2 / 3 + 1) / 2 + 2 / 3) / 2)
    assert "round: 2 labelled, 3 predicted" in comparison.text()
    assert "mean over classes of the mean" in comparison.text()
    assert comparison.csv().count("\na,") + comparison.csv().count("\nb,") == 6


def test_a_missing_class_map_is_named(folders: Folders) -> None:
    for folder in folders:
        for case in "ab":
            write(folder / f"{case}.png", LABEL)
        write(folder / "classes" / "a.png", LABEL)
    comparison = evaluate_instances(*folders)
    assert [case.case for case in comparison.cases] == ["a"]
    assert "classes/b.png does not exist" in comparison.problems[0]
    write(folders[0] / "classes" / "b.png", LABEL)
    write(folders[1] / "classes" / "b.png", LABEL[1:])
    assert "classes/b.png has shape 1×7×9" in evaluate_instances(*folders).problems[0]
    for path in (folders[1] / "classes").iterdir():
        path.unlink()
    (folders[1] / "classes").rmdir()
    comparison = evaluate_instances(*folders)
    assert comparison.groups == ("all objects",)
    assert "classes are not compared" in comparison.notes[0]


# -- presets


def neurips_f1(label: np.ndarray, prediction: np.ndarray, tile: int = 0) -> float:
    """The challenge's F1, step by step: delete what touches the frame, match, count."""
    if tile:
        size = [-(-side // tile) * tile for side in label.shape]
        padded = [np.zeros(size, dtype=np.int64) for _ in range(2)]
        for into, ids in zip(padded, (label, prediction), strict=True):
            into[: label.shape[0], : label.shape[1]] = ids
        boxes = [np.s_[y : y + tile, x : x + tile] for y in range(0, size[0], tile) for x in range(0, size[1], tile)]
        pieces = [(padded[0][box], padded[1][box]) for box in boxes]
    else:
        pieces = [(label, prediction)]
    tp = num_labelled = num_predicted = 0
    for pair in pieces:
        kept = []
        for ids in pair:
            frame = np.ones(ids.shape, dtype=bool)
            frame[2:-2, 2:-2] = False
            kept.append([ids == value for value in {*ids.ravel().tolist()} - {0, *ids[frame].tolist()}])
        num_labelled, num_predicted = num_labelled + len(kept[0]), num_predicted + len(kept[1])
        iou = np.array([[(a & b).sum() / (a | b).sum() for b in kept[1]] for a in kept[0]])
        if iou.size:
            rows, columns = linear_sum_assignment(-(iou >= 0.5).astype(float) - iou / (2 * min(iou.shape)))
            tp += int((iou[rows, columns] >= 0.5).sum())
    if not tp:
        return 0.0
    precision, recall = tp / num_predicted, tp / num_labelled
    return round(2 * precision * recall / (precision + recall), 4)


@pytest.mark.parametrize("tile", [0, 16])
def test_neurips22_is_the_challenges_f1(
    folders: Folders, random_pairs: Pairs, tile: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if tile:
        rules = instance_metrics.INSTANCE_PROTOCOLS["neurips22"]
        assert (rules.tile, rules.tile_from) == (2000, 5000 * 5000)
        cut = dataclasses.replace(rules, tile=tile, tile_from=1)
        monkeypatch.setitem(instance_metrics.INSTANCE_PROTOCOLS, "neurips22", cut)
    pairs = [pair for pair in random_pairs if pair[0].ndim == 2]
    for index, (label, prediction) in enumerate(pairs):
        write(folders[1] / f"{index:02d}.tif", label)
        write(folders[0] / f"{index:02d}.tif", prediction)
    comparison = evaluate_instances(*folders, protocol="neurips22")
    expected = [neurips_f1(*pair, tile) for pair in pairs]
    assert [case.scores[0].values[0] for case in comparison.cases] == expected
    assert len({*expected}) > 5
    summary = comparison.totals[0].metrics[0]
    assert (comparison.summary, summary.number("median")) == ("median", pytest.approx(np.median(expected)))
    assert comparison.cases[1].num_deleted == (0, 0)
    assert any(sum(case.num_deleted) for case in comparison.cases)


def test_neurips22_is_for_images_of_two_axes(folders: Folders) -> None:
    for folder in folders:
        write(folder / "a.nii.gz", np.stack([LABEL] * 3))
        write(folder / "b.png", LABEL)
    comparison = evaluate_instances(*folders, protocol="neurips22")
    assert "a.nii.gz is a volume; protocol neurips22 is made for 2D images" in comparison.problems[0]
    assert comparison.num_left_out == 1


def test_ctc_matches_its_file_names_and_pools(folders: Folders) -> None:
    first, second = LABEL, np.where(LABEL == 1, 1, 0)
    write(folders[1] / "man_seg000.tif", first)
    write(folders[1] / "man_seg003.tif", second)
    write(folders[0] / "mask000.tif", np.where(LABEL == 2, 1, LABEL))  # two objects are one
    write(folders[0] / "mask003.tif", second)
    write(folders[0] / "mask004.tif", second)
    comparison = evaluate_instances(*folders, protocol="ctc")
    assert [case.case for case in comparison.cases] == ["000", "003"]
    assert (comparison.problems, comparison.num_left_out, comparison.without_label) == ((), 0, ("004",))
    assert "1 prediction without label" in "\n".join(comparison.notes)
    seg, det = (summary.number(comparison.summary) for summary in comparison.totals[0].metrics)
    assert seg == pytest.approx((6 / 15 + 9 / 15 + 1 + 1) / 4)
    assert det == pytest.approx(1 - 5 / 40)


def test_ctc_cost_beyond_making_all_by_hand_is_zero(folders: Folders) -> None:
    write(folders[1] / "a.png", (LABEL == 1) * 1)
    write(folders[0] / "a.png", np.arange(LABEL.size).reshape(LABEL.shape) * (LABEL == 0))
    comparison = evaluate_instances(*folders, protocol="ctc", metrics=["det"])
    assert comparison.cases[0].scores[0].values == (0.0,)
    assert comparison.totals[0].metrics[0].pooled == 0.0


# -- many images


def test_images_wait_for_memory_and_give_it_back(
    folders: Folders, some: Pairs, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[int] = []
    lock, hold = threading.Lock(), MemoryGate.hold

    def recorded(self: MemoryGate, num_bytes: int) -> Any:
        with lock:
            held.append(num_bytes)
        return hold(self, num_bytes)

    monkeypatch.setattr(MemoryGate, "hold", recorded)
    together = evaluate_instances(*folders, threads=4)
    assert len(held) == len(some)
    assert all(size > CHUNK_BYTES for size in held)
    monkeypatch.setattr("autoseg.data.parallel.host_memory_bytes", lambda: 1)  # one at a time
    assert evaluate_instances(*folders, threads=4) == together


@pytest.mark.data
def test_real_labels_agree_with_themselves(data_folder: Path) -> None:
    label = data_folder / "stardist_mini" / "mask3d.tif"
    comparison = evaluate_instances(label, label, metrics=["ap", "pq", "seg", "det", "aji", "arand", "voi"])
    assert comparison.cases[0].scores[0].values == (1.0, 1.0, 1.0, 1.0, 1.0, 0.0, 0.0)
    assert comparison.cases[0].scores[0].num_labelled > 10


def test_starts_without_torch() -> None:
    import subprocess
    import sys

    code = "import autoseg.evaluation.instance_folders, sys; print('torch' in sys.modules, 'skimage' in sys.modules)"
    done: Callable[..., Any] = subprocess.check_output
    assert done([sys.executable, "-c", code], text=True).strip() == "False False"
