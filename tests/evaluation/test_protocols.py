"""Protocols: what stands for empty masks, a case by hand for each, and the rules that one challenge alone has."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autoseg.errors import OptionError
from autoseg.evaluation.measure import measure_case, tabulate
from autoseg.evaluation.metric_records import CaseMetrics
from autoseg.evaluation.metrics import METRICS, parse_metrics
from autoseg.evaluation.overlap import CasePrediction, Structure
from autoseg.evaluation.protocols import PROTOCOLS, Protocol, find_protocol, structures_for
from planners.labels import LabelClass, Labels

SHAPE = (14, 14, 14)
CUBE = (slice(2, 6),) * 3  # 64 mm³: more than the 50 that BraTS leaves out
MOVED = (slice(2, 6), slice(2, 6), slice(3, 7))

Row = tuple[float | None, float | None, float | None]

ZERO: Row = (None, 0.0, 0.0)
ONE: Row = (1.0, 0.0, 0.0)
LEFT_OUT: Row = (None, None, None)
ERROR: Row = (0.0, 64.0, -64.0)
BRATS_2023 = {"lesion_dice": ONE, "lesion_hd95": (0.0, 374.0, 374.0), "dice": ONE, "hd95": (0.0, 374.0, 374.0)}
EMPTY: dict[str, dict[str, Row]] = {  # metric: value where both masks are empty, the label, the prediction
    "default": {
        "dice": ZERO, "iou": ZERO, "hd95": LEFT_OUT, "assd": LEFT_OUT, "nsd@1": ZERO, "volume_error": ERROR,
    },
    "nnunet": {"dice": ZERO, "iou": ZERO},
    "msd": {"dice": ZERO, "nsd": ZERO},
    "brats2023": BRATS_2023,
    "brats2023-men": BRATS_2023,
    "brats2023-met": BRATS_2023,
    "brats2021": {"dice": ONE, "hd95": (0.0, 373.12866, 373.12866), "recall": (1.0, None, 0.0)},
    "kits23": {"dice": ONE, "nsd": ONE},
    "flare": {"dice": ONE, "nsd": ONE},
    "flare22": {"dice": ONE, "nsd": ONE},
    "flare23": {"dice": ONE, "nsd": ONE},
    "amos": {"dice": ZERO, "nsd": ZERO},
    "acdc": {"dice": ONE, "border_hd": (0.0, None, None), "volume_error": ERROR},
    "lits": {"dice": ONE, "pooled_dice": LEFT_OUT},
    "promise12": {"dice": ZERO, "relative_volume_error": (None, None, -1.0), "assd": LEFT_OUT, "hd95": LEFT_OUT},
    "isbi2012": {"dice": ONE, "iou": ONE, "pooled_dice": LEFT_OUT},
    "btcv": {"dice": ZERO, "assd": LEFT_OUT, "hd": LEFT_OUT},
}  # fmt: skip
EMPTY |= {name: EMPTY["msd"] for name in PROTOCOLS if name.startswith("msd-")}

BY_HAND = {  # a cube of 4³ voxels of 1 mm, found one voxel beside where it is: 48 voxels in both, 64 in each
    "dice": 2 * 48 / 128,
    "iou": 48 / 80,
    "recall": 48 / 64,
    "volume_error": 0.0,
    "relative_volume_error": 0.0,
    "hd": 1.0,
    "hd95": 1.0,
    "border_hd": 1.0,
    "nsd": 1.0,
    "nsd@1": 1.0,
    "lesion_dice": 0.75,
    "lesion_hd95": 1.0,
    "pooled_dice": None,
}


def labels_of(protocol: Protocol) -> Labels:
    values = protocol.values or (1,)
    classes = [LabelClass(name="background", value=0), *(LabelClass(name=f"v{value}", value=value) for value in values)]
    return Labels(classes=tuple(classes))


def measured(protocol: Protocol, label: np.ndarray, prediction: np.ndarray, place: int = 0, **given: Any):
    """Measure one structure of a protocol on maps of label values; gives a value per metric."""
    labels = labels_of(protocol)
    structures, notes = structures_for(protocol, labels)
    assert notes == ()
    item = CasePrediction("a", labels.encode(label), labels.encode(prediction))
    row = measure_case(item, structures[place : place + 1], given.pop("spacing", (1.0, 1.0, 1.0)), protocol, **given)
    names = [measure.name for measure in parse_metrics(given.get("metrics") or protocol.metrics)]
    return dict(zip(names, row.values[0], strict=True))


def maps(protocol: Protocol, *boxes: Any) -> list[np.ndarray]:
    """Maps of label values that hold the first structure in a box, or nowhere."""
    value = protocol.structures[0].values[0] if protocol.structures else 1
    found = []
    for box in boxes:
        array = np.zeros(SHAPE, dtype=np.int16)
        if box is not None:
            array[box] = value
        found.append(array)
    return found


@pytest.mark.parametrize("name", PROTOCOLS)
def test_empty_masks(name: str) -> None:
    protocol = PROTOCOLS[name]
    situations = [(None, None), (None, CUBE), (CUBE, None)]
    rows = [measured(protocol, *maps(protocol, *situation)) for situation in situations]
    assert {metric: tuple(row[metric] for row in rows) for metric in rows[0]} == EMPTY[name]


@pytest.mark.parametrize("name", PROTOCOLS)
def test_a_case_by_hand(name: str) -> None:
    protocol = PROTOCOLS[name]
    row = measured(protocol, *maps(protocol, CUBE, MOVED))
    for metric, value in row.items():
        if metric == "assd":  # two of six faces lie 1 mm off, and less than that of the others' rims
            assert 32 / 96 * 0.9 < value < 32 / 96 + 0.2
        else:
            assert value == pytest.approx(BY_HAND[metric]), metric
    perfect = measured(protocol, *maps(protocol, CUBE, CUBE))
    for metric, value in perfect.items():
        better = METRICS[metric.partition("@")[0]].better
        assert value == pytest.approx(1.0 if better == "higher" else 0.0) or METRICS[metric].pooled


@pytest.mark.parametrize("name", PROTOCOLS)
def test_table_is_well_formed(name: str) -> None:
    protocol = PROTOCOLS[name]
    assert protocol.name == name
    assert protocol.sources
    assert all(source.startswith(("http", "docs/")) for source in protocol.sources)
    measured_names = {measure.metric.name for measure in parse_metrics(protocol.metrics)}
    assert set(protocol.fallbacks) <= measured_names
    assert all(METRICS[metric].count is None or metric != "nsd" for metric in measured_names)
    assert len({item.name for item in protocol.structures}) == len(protocol.structures)
    assert all(find_protocol(variant).name == variant for variant in protocol.variants)
    for sentence in (*protocol.unknown, *protocol.differs):
        assert len(sentence) > 20


def test_every_protocol_and_metric_is_documented() -> None:
    text = (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text()
    for name in (*PROTOCOLS, *METRICS):
        assert f"`{name}`" in text, name
    for protocol in PROTOCOLS.values():
        for source in protocol.sources:
            assert source.startswith("docs/") or source in text, source


def test_unknown_names_are_refused_with_the_nearest() -> None:
    assert find_protocol(None) is PROTOCOLS["default"]
    with pytest.raises(OptionError, match="did you mean 'kits23'"):
        find_protocol("kits32")


def test_structures_come_by_the_challenges_values() -> None:
    labels = Labels(
        classes=tuple(LabelClass(name=name, value=value) for name, value in (("bg", 0), ("t", 2), ("k", 1)))
    )
    structures, notes = structures_for(find_protocol("kits23"), labels)
    assert structures == (
        Structure(name="kidney and mass", classes=(1, 2)),
        Structure(name="mass", classes=(1,)),
        Structure(name="tumor", classes=(1,)),
    )
    assert notes == ()
    _, notes = structures_for(find_protocol("flare22"), labels)
    assert "also measures spleen (3); pancreas (4)" in notes[0]
    wrong = Labels(classes=(LabelClass(name="bg", value=0), LabelClass(name="cell", value=255)))
    with pytest.raises(OptionError, match=r"kits23 measures kidney and mass \(1, 2, 3\).*declared are bg 0, cell 255"):
        structures_for(find_protocol("kits23"), wrong)


def test_kits_regions_and_their_tolerances() -> None:
    """Kidney 1, tumor 2, cyst 3. Cubes of 2 mm voxels one voxel off: at 2 mm, farther than each tolerance."""
    protocol = find_protocol("kits23")
    label, prediction = np.zeros((2, *SHAPE), dtype=np.int16)
    label[2:6, 2:6, 2:6], prediction[2:6, 2:6, 2:6] = 3, 2
    rows = [measured(protocol, label, prediction, place) for place in range(3)]
    assert [row["dice"] for row in rows] == [1.0, 1.0, 0.0]
    assert [item.tolerance_mm for item in protocol.structures] == pytest.approx([1.0331, 1.1329, 1.1498], abs=1e-4)
    label[:], prediction[:] = 0, 0
    label[CUBE], prediction[MOVED] = 2, 2
    for factor, expected in ((1.03, 1.0), (1.1, None)):  # moved by that many mm: within the first tolerance, or not
        nsd = measured(protocol, label, prediction, 0, spacing=(factor,) * 3)["nsd"]
        assert (nsd == 1.0) == (expected == 1.0)
    assert measured(protocol, label, prediction, 1, spacing=(1.13,) * 3)["nsd"] == 1.0
    assert measured(protocol, label, prediction, 1, spacing=(1.14,) * 3)["nsd"] < 1.0
    assert measured(protocol, label, prediction, 2, spacing=(1.14,) * 3)["nsd"] == 1.0


def test_flare_measures_vessels_in_the_labels_slices() -> None:
    """Aorta 5: what lies above and below the label costs nothing, nor does the label's last slice. The liver's does."""
    for name in ("flare22", "flare23"):
        protocol = find_protocol(name)
        for value, expected in ((5, 1.0), (1, 2 * 3 * 9 / (4 * 9 + 6 * 9))):
            label, prediction = np.zeros((2, *SHAPE), dtype=np.int16)
            label[4:8, 2:5, 2:5] = value
            prediction[1:7, 2:5, 2:5] = value
            assert measured(protocol, label, prediction, value - 1)["dice"] == pytest.approx(expected)
        label[:], prediction[:] = 0, 0
        label[4, 2:5, 2:5], prediction[4, 2:5, 2:5] = 5, 5
        assert measured(protocol, label, prediction, 4) == {"dice": None, "nsd": None}, "one slice: nan in the script"


def test_flare23_gives_no_surface_credit_without_overlap() -> None:
    label, prediction = np.zeros((2, *SHAPE), dtype=np.int16)
    label[2:6, 2:6, 2:6], prediction[2:6, 2:6, 6:10] = 1, 1  # side by side: Dice 0, and 4 mm < 5 mm tolerance
    assert measured(find_protocol("flare22"), label, prediction) == {"dice": 0.0, "nsd": 1.0}
    assert measured(find_protocol("flare23"), label, prediction) == {"dice": 0.0, "nsd": 0.0}


def test_brats_2023_counts_lesions() -> None:
    """Enhancing tumor 3: one lesion found, one missed, one of 27 mm³ that does not count, one invented."""
    label, prediction = np.zeros((2, 20, 40, 40), dtype=np.int16)
    label[2:6, 2:6, 2:6], prediction[2:6, 2:6, 2:6] = 3, 3
    label[2:6, 30:34, 2:6] = 3
    label[2:5, 2:5, 30:33] = 3
    prediction[10:12, 30:32, 30:32] = 3
    row = measured(find_protocol("brats2023"), label, prediction, 2, metrics=("lesion_dice", "lesion_hd95"))
    assert row == {"lesion_dice": pytest.approx(1 / 3), "lesion_hd95": pytest.approx(2 * 374 / 3)}
    label[label > 0] = 0
    label[2:5, 2:5, 2:5] = 3
    alone = measured(find_protocol("brats2023"), label, label, 2, metrics=("lesion_dice", "lesion_hd95"))
    assert alone == {"lesion_dice": 1.0, "lesion_hd95": 0.0}, "no lesion counts: the script's 1 and 0"
    counted = measured(find_protocol("brats2023-met"), label, 0 * label, 2, metrics=("lesion_dice", "lesion_hd95"))
    assert counted == {"lesion_dice": 0.0, "lesion_hd95": 374.0}, "27 mm³ count among metastases"


def test_amos_averages_values_not_organs() -> None:
    """An organ seen in one case weighs as one value there, and as much as the others elsewhere."""
    values = [(1.0, 1.0), (1.0, None), (1.0, None)]
    rows = [
        CaseMetrics(
            case=str(case),
            values=tuple((value if structure == 0 else (0.4 if case == 0 else None),) for structure in range(2)),
            empty=("", ""),
            counts=((1, 1, 1),) * 2,
        )
        for case, (value, _) in enumerate(values)
    ]
    amos = tabulate(rows, ["spleen", "liver"], find_protocol("amos"), ["dice"]).mean[0]
    usual = tabulate(rows, ["spleen", "liver"], find_protocol("default"), ["dice"]).mean[0]
    assert amos is not None
    assert usual is not None
    assert amos.mean == pytest.approx((1 + 1 + 1 + 0.4) / 4)
    assert usual.mean == pytest.approx((1 + 0.4) / 2)


@pytest.mark.parametrize(("task", "tolerance"), [("liver", 7.0), ("hippocampus", 1.0), ("hepatic-vessel", 3.0)])
def test_decathlon_tasks_have_their_tolerance(task: str, tolerance: float) -> None:
    protocol = find_protocol(f"msd-{task}")
    assert protocol.options.tolerance_mm == tolerance
    label, prediction = maps(protocol, CUBE, MOVED)
    for spacing, within in ((tolerance * 0.99, True), (tolerance * 1.01, False)):
        nsd = measured(protocol, label, prediction, spacing=(spacing,) * 3)["nsd"]
        assert math.isclose(nsd, 1.0) == within


def test_documented_notes_are_those_of_the_table() -> None:
    """What is not known, and what is done otherwise, stands in the document word for word."""
    text = (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text()
    for protocol in PROTOCOLS.values():
        for mark, sentences in (("?", protocol.unknown), ("≠", protocol.differs)):
            for sentence in sentences:
                assert f"- {mark} {sentence}\n" in text, f"{protocol.name}: {sentence}"
