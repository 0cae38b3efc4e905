"""Measuring: a case's values are those of its masks, means and intervals are what their words say."""

import itertools
import json
from collections.abc import Sequence

import numpy as np
import pytest

from autoseg.evaluation import measure
from autoseg.evaluation.averages import mean_of_structures, mean_of_values, pooled_dice
from autoseg.evaluation.measure import labelled_slices, measure_case, ruler_for, tabulate
from autoseg.evaluation.metric_records import CaseMetrics
from autoseg.evaluation.metrics import METRICS, parse_metric
from autoseg.evaluation.overlap import CasePrediction, Structure, score_cases
from autoseg.evaluation.pairs import make_pair
from autoseg.evaluation.protocol_records import Protocol
from autoseg.evaluation.protocols import find_protocol
from autoseg.evaluation.statistics import bootstrap_mean
from planners.labels import LabelClass, Labels
from planners.records import dumps, from_json

LABELS = Labels(classes=tuple(LabelClass(name=f"c{value}", value=value) for value in range(4)), ignore=9)
STRUCTURES = (Structure(name="one", classes=(1,)), Structure(name="region", classes=(1, 3)))
DEFAULT = find_protocol("default")
EVERY_METRIC = tuple(name for name in METRICS if name != "cldice")


def draw(seed: int, shape: tuple[int, ...] = (7, 8, 9), highest: int = 4) -> np.ndarray:
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, highest + 1, [-(-size // 2) for size in shape])
    return np.kron(coarse, np.ones((2, 2, 2), dtype=int))[tuple(slice(size) for size in shape)].astype(np.uint8)


def prediction_of(seed: int, shape: tuple[int, ...] = (7, 8, 9), case: str = "a") -> CasePrediction:
    return CasePrediction(case, draw(seed, shape), draw(seed + 1000, shape, 3))


@pytest.mark.parametrize("shape", [(7, 8, 9), (1, 8, 9)])
@pytest.mark.parametrize("seed", range(3))
def test_values_are_those_of_the_masks(seed: int, shape: tuple[int, ...]) -> None:
    """Regions, voxels that are ignored (index 4), 2D: as if every mask were made by hand and measured alone."""
    item = prediction_of(seed, shape)
    row = measure_case(item, STRUCTURES, (2.0, 0.5, 0.7), DEFAULT, EVERY_METRIC, ignore_index=4)
    dimensions = 2 if shape[0] == 1 else 3
    for place, structure in enumerate(STRUCTURES):
        label = np.isin(item.label, structure.classes)
        prediction = np.isin(item.prediction, structure.classes) & (item.label != 4)
        pair = make_pair(
            label.reshape(shape[-dimensions:]), prediction.reshape(shape[-dimensions:]), (2.0, 0.5, 0.7)[-dimensions:]
        )
        assert row.counts[place] == ((label & prediction).sum(), prediction.sum(), label.sum())
        assert row.empty[place] == ""
        for index, name in enumerate(EVERY_METRIC):
            expected = None if METRICS[name].pooled else METRICS[name].compute(pair, DEFAULT.options)
            assert row.values[place][index] == expected, name


def test_counts_are_enough_where_only_overlap_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    item = prediction_of(0)
    names = ["dice", "iou", "volume_error", "recall"]
    expected = measure_case(item, STRUCTURES, (1.0, 1.0, 1.0), DEFAULT, [*names, "hd95"])
    monkeypatch.setattr(measure, "make_pairs", lambda *_: pytest.fail("no mask is needed"))
    row = measure_case(item, STRUCTURES, (1.0, 1.0, 1.0), DEFAULT, names)
    assert row.values == tuple(values[:-1] for values in expected.values)
    assert ruler_for(STRUCTURES, find_protocol("flare"), ["dice"]).needs_masks, "its slices are cut"


def test_what_is_not_annotated_has_no_values() -> None:
    item = prediction_of(0)._replace(annotated=(1,))
    row = measure_case(item, STRUCTURES, (1.0, 1.0, 1.0), DEFAULT, ["dice", "hd95", "volume"])
    assert row.empty == ("", "not annotated")
    assert None not in row.values[0]
    assert row.values[1] == (None, None, None)
    assert row.counts[1] == (0, 0, 0)
    table = tabulate([row], STRUCTURES, DEFAULT, ["dice", "hd95", "volume"])
    assert table.by_structure[1] == (None, None, None)
    assert table.mean == table.by_structure[0]


def test_empty_masks_are_told_apart() -> None:
    label, prediction = np.zeros((2, 3, 4, 5), dtype=np.uint8)
    label[0, 0, 0], prediction[1, 1, 1] = 1, 2
    structures = [Structure(name=str(index), classes=(index,)) for index in (1, 2, 3)]
    row = measure_case(CasePrediction("a", label, prediction), structures, (1.0, 1.0, 1.0), DEFAULT)
    assert row.empty == ("prediction", "label", "both")


def table_of(num_cases: int, protocol: Protocol = DEFAULT, metrics: Sequence[str] = ()):
    items = [prediction_of(seed, case=f"case_{seed}") for seed in range(num_cases)]
    rows = [measure_case(item, STRUCTURES, (1.0, 1.0, 1.0), protocol, metrics) for item in items]
    return tabulate(rows[::-1], STRUCTURES, protocol, metrics), items


def test_table_agrees_with_the_scores() -> None:
    """The same numbers as the overlap scores that choose configurations, with an interval around each."""
    labels = Labels(classes=LABELS.classes[:3])
    structures = (Structure(name="c1", classes=(1,)), Structure(name="c2", classes=(2,)))
    items = [CasePrediction(f"case_{seed}", draw(seed, highest=2), draw(seed + 7, highest=2)) for seed in range(9)]
    nothing = np.zeros((7, 8, 9), dtype=np.uint8)
    items += [CasePrediction("empty", nothing, nothing), CasePrediction("half", (items[0].label == 1) * 1, nothing)]
    scores = score_cases(items, labels)
    rows = [measure_case(item, structures, (1.0, 1.0, 1.0), DEFAULT) for item in items]
    table = tabulate(rows[::-1], structures, DEFAULT)
    assert [row.case for row in table.cases] == [row.case for row in scores.cases]
    for place, dice in enumerate(scores.dice):
        interval = table.by_structure[place][0]
        assert interval is not None
        assert interval.mean == dice
        assert interval.low < interval.mean < interval.high
        assert interval.num_cases == len(items) - scores.num_absent[place]
    mean = table.mean[0]
    assert mean is not None
    assert mean.mean == scores.mean_dice
    assert mean.low < mean.mean < mean.high


def test_table_is_a_record() -> None:
    table, _ = table_of(3, metrics=["dice", "hd95"])
    assert from_json(type(table), json.loads(dumps(table))) == table


def test_mean_over_structures_without_gaps_is_that_of_the_cases() -> None:
    values = np.random.default_rng(0).random((20, 3))
    got, expected = mean_of_structures(values), bootstrap_mean(values.mean(axis=1).tolist())
    assert got is not None
    assert expected is not None
    assert (got.mean, got.low, got.high) == pytest.approx((expected.mean, expected.low, expected.high), rel=1e-9)
    alike = mean_of_values(values)
    assert alike is not None
    assert (alike.mean, alike.low, alike.high) == pytest.approx((got.mean, got.low, got.high), rel=1e-9)


def resampled(values: np.ndarray, statistic, num: int = 4000) -> tuple[float, float]:
    """Draw cases again and again and compute the statistic each time: the slow way to an interval."""
    rng = np.random.default_rng(0)
    found = [statistic(values[rng.integers(len(values), size=len(values))]) for _ in range(num)]
    low, high = np.nanquantile(found, (0.025, 0.975))
    return float(low), float(high)


def test_intervals_of_means_with_gaps_equal_those_of_drawing_cases() -> None:
    rng = np.random.default_rng(1)
    values = 0.8 + 0.1 * rng.random((60, 3)) - np.array([0.0, 0.2, 0.5])
    values[rng.random(values.shape) < 0.3] = np.nan
    for ours, statistic in (
        (mean_of_structures, lambda drawn: np.nanmean(drawn, axis=0).mean()),
        (mean_of_values, np.nanmean),
    ):
        got = ours(values)
        assert got is not None
        low, high = resampled(values, statistic)
        assert got.mean == pytest.approx(statistic(values), rel=1e-12)
        width = high - low
        assert got.low == pytest.approx(low, abs=0.1 * width)
        assert got.high == pytest.approx(high, abs=0.1 * width)


def test_means_without_any_value() -> None:
    assert mean_of_structures(np.full((3, 2), np.nan)) is None
    assert mean_of_values(np.full((3, 2), np.nan)) is None
    assert pooled_dice(np.zeros((3, 3))) is None
    table = tabulate([], STRUCTURES, DEFAULT)
    assert table.mean == (None,) * len(DEFAULT.metrics)


def test_pooled_dice_counts_all_voxels_together() -> None:
    """Oracle: Dice of all cases laid side by side, as one case; interval: that of drawing cases."""
    table, items = table_of(12, metrics=["dice", "pooled_dice"])
    whole = CasePrediction("all", *(np.concatenate([item[part] for item in items]) for part in (1, 2)))
    together = measure_case(whole, STRUCTURES, (1.0, 1.0, 1.0), DEFAULT, ["dice"])
    for place in range(len(STRUCTURES)):
        pooled = table.by_structure[place][1]
        assert pooled is not None
        assert pooled.mean == pytest.approx(together.values[place][0], rel=1e-12)
        counts = np.array([row.counts[place] for row in table.cases])
        low, high = resampled(counts, lambda drawn: 2 * drawn[:, 0].sum() / drawn[:, 1:].sum())
        assert (pooled.low, pooled.high) == pytest.approx((low, high), abs=0.2 * (high - low))
    assert all(row.values[0][1] is None for row in table.cases)
    assert table.mean[1] is not None


def test_labelled_slices_are_cut_without_the_last() -> None:
    label, prediction = np.zeros((2, 9, 5, 5), dtype=bool)
    label[2:6, 1:4, 1:4], prediction[1:8, 1:4, 1:4] = True, True
    pair = labelled_slices(make_pair(label, prediction, (1.0, 1.0, 1.0)))
    assert (pair.label.sum(), pair.prediction.sum()) == (3 * 9, 3 * 9)
    placed = tuple(slice(start, start + size) for start, size in zip(pair.origin, pair.label.shape, strict=True))
    np.testing.assert_array_equal(pair.label, label[placed] & (np.arange(9)[placed[0]] < 5)[:, None, None])
    assert pair.shape == (9, 5, 5)


def test_mean_leaves_out_what_the_protocol_leaves_out() -> None:
    protocol = find_protocol("flare23")
    names = [item.name for item in protocol.structures]
    rows = [
        CaseMetrics(
            case=str(case),
            values=tuple((0.5 if name != "tumor" else 0.0, None) for name in names),
            empty=("",) * len(names),
            counts=((1, 1, 1),) * len(names),
        )
        for case in range(3)
    ]
    table = tabulate(rows, names, protocol)
    assert table.mean[0] is not None
    assert table.mean[0].mean == 0.5
    assert table.by_structure[names.index("tumor")][0].mean == 0.0


def test_order_of_cases_changes_nothing() -> None:
    rows = table_of(5)[0].cases
    tables = [tabulate(some, STRUCTURES, DEFAULT) for some in itertools.islice(itertools.permutations(rows), 5)]
    assert all(table == tables[0] for table in tables)


def test_measures_are_found_by_name_with_their_number() -> None:
    item = prediction_of(3)
    row = measure_case(item, STRUCTURES[:1], (1.0, 1.0, 1.0), DEFAULT, ["nsd@0", "nsd@1", "nsd@50"])
    values = row.values[0]
    assert values[0] < values[1] < values[2] == 1.0
    assert parse_metric("nsd@50").name == "nsd@50"
