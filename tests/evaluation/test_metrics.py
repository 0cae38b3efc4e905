"""Metrics: every entry of the table keeps the contract and has an oracle; those of the counted ones are here."""

import ast
import itertools
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import SimpleITK

from autoseg.errors import OptionError
from autoseg.evaluation.metric_options import MetricOptions
from autoseg.evaluation.metrics import METRICS, Metric, count_pair, parse_metric, parse_metrics
from autoseg.evaluation.pairs import make_pair

OPTIONS = MetricOptions()
PERFECT = {"higher": 1.0, "lower": 0.0, "zero": 0.0}
FOLDER = Path(__file__).parent

COUNTED = "test_metrics.py::test_counted_metrics_equal_other_packages"
SURFACE = "test_surface.py::test_random_masks_equal_deepmind"
BORDERS = "test_surface.py::test_border_voxels_equal_monai"
LESIONS = "test_lesions.py::test_lesion_wise_scores_equal_the_published_procedure"
DETECTION = "test_lesions.py::test_overlap_options_equal_a_loop_over_lesions"
ORACLES = {
    **dict.fromkeys(("dice", "iou", "precision", "recall"), COUNTED),
    **dict.fromkeys(("volume", "volume_error", "relative_volume_error"), COUNTED),
    "pooled_dice": "test_measure.py::test_pooled_dice_counts_all_voxels_together",
    **dict.fromkeys(("hd", "hd95", "assd", "nsd"), SURFACE),
    **dict.fromkeys(("border_hd", "border_hd95", "border_assd"), BORDERS),
    "boundary_iou": "test_boundary.py::test_equals_the_paper_on_pixels",
    "cldice": "test_skeleton.py::test_it_equals_the_published_formula",
    **dict.fromkeys(("lesion_dice", "lesion_hd95"), LESIONS),
    **dict.fromkeys(("lesion_f1", "lesion_precision", "lesion_recall"), DETECTION),
}


def masks(dimensions: int) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Pairs that break careless code: empty, full, one voxel, nothing in common, at the border."""
    shape = (6, 7, 8)[-dimensions:]
    nothing, everything = np.zeros(shape, dtype=bool), np.ones(shape, dtype=bool)
    voxel, corner = nothing.copy(), nothing.copy()
    voxel[(3,) * dimensions] = True
    corner[(0,) * dimensions] = True
    block = nothing.copy()
    block[(slice(1, 5),) * dimensions] = True
    shapes = {"empty": nothing, "full": everything, "voxel": voxel, "corner": corner, "block": block}
    for (first, label), (second, prediction) in itertools.product(shapes.items(), shapes.items()):
        yield f"{first} {second}", label, prediction


@pytest.mark.parametrize("metric", METRICS.values(), ids=lambda metric: metric.name)
def test_contract(metric: Metric) -> None:
    """Finite or None everywhere; identical masks are perfect; symmetric where it is claimed; counts give the same."""
    for dimensions in (2, 3):
        spacing = (2.0, 0.5, 1.5)[-dimensions:]
        for name, label, prediction in masks(dimensions):
            pair = make_pair(label, prediction, spacing)
            value = metric.compute(pair, OPTIONS)
            assert value is None or math.isfinite(value), f"{name}: {value}"
            if metric.count is not None:
                assert metric.count(count_pair(pair)) == value
            if label is prediction and label.any() and metric.better in PERFECT:
                assert value == pytest.approx(PERFECT[metric.better]), name
            if metric.symmetric:
                assert value == pytest.approx(metric.compute(make_pair(prediction, label, spacing), OPTIONS)), name


def test_names_agree() -> None:
    for name, metric in METRICS.items():
        assert metric.name == name
        assert metric.title
        assert metric.parameter is None or metric.parameter in MetricOptions.__dataclass_fields__


def test_every_metric_has_an_oracle() -> None:
    """No metric is listed without a test against something that we have not written, or a definition spelled out."""
    assert set(ORACLES) == set(METRICS)
    for place in set(ORACLES.values()):
        file, _, name = place.partition("::")
        found = {node.name for node in ast.walk(ast.parse((FOLDER / file).read_text())) if hasattr(node, "name")}
        assert name in found, place


def draw(seed: int) -> tuple[np.ndarray, np.ndarray, tuple[float, ...]]:
    rng = np.random.default_rng(seed)
    dimensions = 2 + seed % 2
    shape = tuple(int(size) for size in rng.integers(2, 12, dimensions))
    label, prediction = (rng.random(shape) < rng.choice([0.02, 0.3, 0.8]) for _ in range(2))
    return label, prediction, tuple(rng.uniform(0.3, 4, dimensions).tolist())


def size_mm3(mask: np.ndarray, spacing: tuple[float, ...]) -> float:
    image = SimpleITK.GetImageFromArray(mask.astype(np.uint8))
    image.SetSpacing(spacing[::-1])
    shapes = SimpleITK.LabelShapeStatisticsImageFilter()
    shapes.Execute(image)
    return shapes.GetPhysicalSize(1) if mask.any() else 0.0


def overlap(label: np.ndarray, prediction: np.ndarray) -> tuple[float, float, float, float]:
    """Dice, IoU, precision and recall as ITK measures them."""
    measures = SimpleITK.LabelOverlapMeasuresImageFilter()
    measures.Execute(*(SimpleITK.GetImageFromArray(mask.astype(np.uint8)) for mask in (prediction, label)))
    return (
        measures.GetDiceCoefficient(1),
        measures.GetJaccardCoefficient(1),
        1 - measures.GetFalseDiscoveryRate(1),
        1 - measures.GetFalseNegativeError(1),
    )


def check_counted(label: np.ndarray, prediction: np.ndarray, spacing: tuple[float, ...]) -> None:
    pair = make_pair(label, prediction, spacing)
    got = {name: METRICS[name].compute(pair, OPTIONS) for name, place in ORACLES.items() if place == COUNTED}
    if label.any() and prediction.any():
        expected = overlap(label, prediction)
        measured = [got[name] for name in ("dice", "iou", "precision", "recall")]
        np.testing.assert_allclose(np.array(measured, dtype=float), expected, rtol=1e-9, atol=1e-12)
    else:
        one = 0.0 if label.any() or prediction.any() else None
        assert (got["dice"], got["iou"]) == (one, one)
        assert got["precision"] == (0.0 if prediction.any() else None)
        assert got["recall"] == (0.0 if label.any() else None)
    labelled, predicted = size_mm3(label, spacing), size_mm3(prediction, spacing)
    assert got["volume"] == pytest.approx(predicted, rel=1e-6)
    assert got["volume_error"] == pytest.approx(predicted - labelled, rel=1e-6, abs=1e-9)
    if labelled:
        assert got["relative_volume_error"] == pytest.approx((predicted - labelled) / labelled, rel=1e-6, abs=1e-9)
    else:
        assert got["relative_volume_error"] is None


def test_counted_metrics_equal_other_packages() -> None:
    """ITK's overlap measures and physical sizes; 200 random pairs, empty ones among them."""
    pairs = [draw(seed) for seed in range(200)]
    assert any(not label.any() for label, _, _ in pairs)
    for label, prediction, spacing in pairs:
        check_counted(label, prediction, spacing)


@pytest.mark.data
def test_counted_metrics_of_real_masks_equal_other_packages(data_folder: Path) -> None:
    """Twenty pairs: ten hippocampi against their neighbour in the list, ten regions of tumours against one moved."""
    paths = sorted((data_folder / "hippocampus" / "labelsTr").glob("*.nii.gz"))[:11]
    maps = [SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path))) for path in paths]
    for first, second in itertools.pairwise(maps):
        size = tuple(slice(min(a, b)) for a, b in zip(first.shape, second.shape, strict=True))
        check_counted(first[size] > 0, second[size] > 0, (1.0, 1.0, 1.0))
    tumours = sorted((data_folder / "brats2015_deepmedic").rglob("*OTMultiClass*.nii.gz"))
    assert tumours
    regions = [(1, 2, 3, 4), (1, 3, 4), (4,), (2,)]
    for path, region in list(itertools.product(tumours, regions))[:10]:
        image = SimpleITK.ReadImage(str(path))
        mask = np.isin(SimpleITK.GetArrayFromImage(image).astype(int), region)
        check_counted(mask, np.roll(mask, 2, axis=1), image.GetSpacing()[::-1])


@pytest.mark.parametrize(
    ("text", "name", "options"),
    [
        ("dice", "dice", MetricOptions()),
        ("nsd", "nsd", MetricOptions()),
        ("nsd@2", "nsd@2", MetricOptions(tolerance_mm=2.0)),
        (" nsd@0.50 ", "nsd@0.5", MetricOptions(tolerance_mm=0.5)),
        ("boundary_iou@0.01", "boundary_iou@0.01", MetricOptions(boundary_fraction=0.01)),
    ],
)
def test_names_are_read(text: str, name: str, options: MetricOptions) -> None:
    measure = parse_metric(text)
    assert measure.name == name
    assert measure.options(MetricOptions()) == options


def test_a_name_that_is_there_twice_counts_once() -> None:
    assert [measure.name for measure in parse_metrics(["dice", "nsd@2", "dice", "nsd"])] == ["dice", "nsd@2", "nsd"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("dcie", "no metric is named 'dcie'; did you mean 'dice'"),
        ("hd95@3", "hd95 takes no number"),
        ("nsd@two", "'two' is no number"),
        ("nsd@-1", "'-1' is no number from 0 up"),
        ("nsd@", "'' is no number"),
    ],
)
def test_wrong_names_say_what_to_write(text: str, said: str) -> None:
    with pytest.raises(OptionError, match=said):
        parse_metric(text)
