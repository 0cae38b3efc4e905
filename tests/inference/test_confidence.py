"""What is watched slab by slab equals a slow count over the whole image, and is kept for what a run has chosen."""

import dataclasses
import gc

import numpy as np
import pytest

from autoseg.evaluation.calibration import expected_calibration_error
from autoseg.evaluation.confidence import LEAST_PROBABILITY, NUM_BINS, Bin, CaseConfidence, Confidence
from autoseg.evaluation.overlap import collect, score_case, structures_of
from autoseg.evaluation.selection import Choice
from autoseg.inference import export
from autoseg.inference.confidence import ConfidenceWatcher, collect_confidence, keep_confidence
from autoseg.inference.export import LogitsPart, segment
from autoseg.preprocessing.preprocess import make_grid
from autoseg.run_folder import RunFolder
from autoseg.targets import make_target
from planners.fingerprint import Channel
from planners.labels import LabelClass, Labels, Region
from planners.plan import MemoryBudget, Plan, Target

CLASSES = tuple(
    LabelClass(name=name, value=value) for name, value in (("air", 0), ("rim", 3), ("core", 5), ("drop", 6))
)
REGIONS = (
    Region(name="whole", values=(3, 5, 6)),
    Region(name="inner", values=(5, 6)),
    Region(name="drop", values=(6,)),
)
KINDS = {
    "semantic": (Labels(classes=CLASSES), 4),
    "semantic with regions": (Labels(classes=CLASSES, regions=REGIONS), 4),
    "regions": (Labels(classes=CLASSES, regions=REGIONS), 3),
    "semantic with ignore": (Labels(classes=CLASSES, ignore=9), 4),
}
SHAPE, BOX, ORDER = (9, 13, 11), ((1, 9), (0, 12), (2, 10)), (2, 0, 1)


@pytest.fixture(autouse=True)
def thin_slabs(monkeypatch):
    """Several slabs even for small images."""
    monkeypatch.setattr(export, "SLAB_BYTES", 2**12)


@pytest.fixture(params=KINDS)
def watched(request, make_configuration):
    """A target, its plan, logits of one case on another grid than the image's, and a label."""
    labels, num_outputs = KINDS[request.param]
    name = request.param.split()[0]
    configuration = make_configuration((8, 8, 8), num_outputs=num_outputs, spacing_mm=(1.5, 1.2, 1.0))
    configuration = dataclasses.replace(configuration, target=Target(name=name, num_outputs=num_outputs))
    plan = Plan(
        dataset="test",
        planner="default",
        budget=MemoryBudget(),
        axis_order=ORDER,
        channels=(Channel(name="MRI"),),
        labels=labels,
        configurations=(configuration,),
    )
    box = tuple(BOX[axis] for axis in ORDER)
    grid = make_grid(tuple(SHAPE[axis] for axis in ORDER), box, (1.0, 1.0, 1.0), configuration)
    random = np.random.default_rng(0)
    logits = (random.normal(size=(num_outputs, *grid.shape)) * 3).astype(np.float32)
    part = LogitsPart(logits_KZYX=logits, grid=grid, resampling=configuration.resampling)
    label = random.integers(0, 4 if labels.ignore is None else 5, SHAPE).astype(np.uint8)
    return make_target(configuration.target, labels, configuration.training), plan, part, label


def slow(target, plan, part, label, file):
    """Every structure's probability on the whole image, from the file of probabilities in float64."""
    segmentation = segment([part], target, plan, file)
    probabilities = np.load(file).astype(np.float64)
    found = []
    for index, structure in enumerate(structures_of(plan.labels)):
        if target.name == "regions":
            probability = probabilities[index]
        else:
            probability = probabilities[list(structure.classes)].sum(0)
        predicted, truth = np.isin(segmentation, structure.classes), np.isin(label, structure.classes)
        expected = 2 * probability[predicted].sum() / (probability.sum() + predicted.sum())
        counted = probability >= LEAST_PROBABILITY
        if plan.labels.ignore_index is not None:
            counted &= label != plan.labels.ignore_index
        found.append((expected, probability[counted], truth[counted]))
    return segmentation, found


@pytest.mark.parametrize("threads", [1, 3])
def test_equals_the_slow_way(watched, tmp_path, threads):
    target, plan, part, label = watched
    watcher = ConfidenceWatcher(target, plan.labels, label)
    segmentation = segment([part], target, plan, threads=threads, watch=watcher)
    found = watcher.result()
    expected_segmentation, expected = slow(target, plan, part, label, tmp_path / "case.npy")
    np.testing.assert_array_equal(segmentation, expected_segmentation)  # watching changes nothing
    assert len(found.expected_dice) == len(expected)
    for dice, bins, (right, probability, truth) in zip(found.expected_dice, found.bins, expected, strict=True):
        assert dice == pytest.approx(right, abs=2e-4)  # the file rounds to float16
        assert sum(item.count for item in bins) == pytest.approx(len(probability), abs=3)
        assert sum(item.confidence for item in bins) == pytest.approx(probability.sum(), rel=1e-3)
        assert sum(item.correct for item in bins) == pytest.approx(truth.sum(), abs=3)
        place = np.minimum((probability * NUM_BINS).astype(int), NUM_BINS - 1)
        gaps = [abs((probability - truth)[place == index].sum()) for index in range(NUM_BINS)]
        assert expected_calibration_error(bins) == pytest.approx(sum(gaps) / len(probability), abs=2e-3)


def test_threads_and_labels_do_not_change_what_is_expected(watched):
    target, plan, part, label = watched
    results = []
    for threads, known in ((1, label), (4, None), (3, label)):
        watcher = ConfidenceWatcher(target, plan.labels, known)
        segment([part], target, plan, threads=threads, watch=watcher)
        results.append(watcher.result())
    assert results[0] == results[2]
    assert results[0].expected_dice == results[1].expected_dice
    assert all(item.count == 0 for bins in results[1].bins for item in bins)


def test_bins_of_many_slabs_take_the_memory_of_one(watched, monkeypatch):
    """A large image has hundreds of slabs: their bins are added up as they come."""
    target, plan, part, label = watched
    monkeypatch.setattr(export, "SLAB_BYTES", 1)
    watcher = ConfidenceWatcher(target, plan.labels, label)
    most = []

    def noted(slab):
        watcher(slab)
        most.append(sum(type(item) is Bin for item in gc.get_objects()))

    before = sum(type(item) is Bin for item in gc.get_objects())
    segment([part], target, plan, watch=noted)
    assert len(most) > 5
    assert max(most) - before <= NUM_BINS * len(structures_of(plan.labels))


def test_what_is_not_found_has_no_expected_dice(make_configuration):
    labels, _ = KINDS["semantic"]
    configuration = make_configuration((8, 8, 8), num_outputs=4)
    plan = Plan(
        dataset="test",
        planner="default",
        budget=MemoryBudget(),
        axis_order=(0, 1, 2),
        channels=(Channel(name="MRI"),),
        labels=labels,
        configurations=(configuration,),
    )
    grid = make_grid((4, 5, 6), ((0, 4), (0, 5), (0, 6)), (1.0, 1.0, 1.0), configuration)
    logits = np.zeros((4, 4, 5, 6), np.float32)
    logits[1, :2], logits[0, 2:] = 40, 40
    target = make_target(configuration.target, labels, configuration.training)
    watcher = ConfidenceWatcher(target, labels, np.zeros((4, 5, 6), np.uint8), annotated=(1, 2))
    segment(
        [LogitsPart(logits_KZYX=logits, grid=grid, resampling=configuration.resampling)], target, plan, watch=watcher
    )
    result = watcher.result()
    assert result.expected_dice == (pytest.approx(1.0), None, None)
    assert result.bins[0][-1].count == 60
    assert result.bins[0][-1].correct == 0
    assert sum(item.count for item in result.bins[2]) == 0  # not annotated


LABELS = Labels(classes=CLASSES[:3])
CHOICE = Choice(
    configurations=("3d",),
    folds=(0, 1, "all-data"),
    postprocessing=(),
    structures=("rim", "core"),
    num_cases=12,
    mean_dice=0.5,
    mean_iou=0.4,
    dice=(0.5, 0.5),
    candidates=(),
    trials=(),
    reasons=(),
)


@pytest.fixture
def run(tmp_path, make_configuration, watched):
    """A run of two validated folds whose cases' Dice is known; the plan and what was watched of each case."""
    target, plan, part, label = watched
    folder = RunFolder(tmp_path / "run")
    rows = {}
    for fold in (0, 1):
        seen, scores = {}, []
        for index in range(6):
            random = np.random.default_rng(10 * fold + index)
            logits = part.logits_KZYX + random.normal(size=part.logits_KZYX.shape).astype(np.float32)
            watcher = ConfidenceWatcher(target, plan.labels, label)
            found = segment([dataclasses.replace(part, logits_KZYX=logits)], target, plan, watch=watcher)
            case = f"case_{fold}{index}"
            seen[case] = watcher.result()
            scores.append(score_case(case, label, found, plan.labels))
        names = [item.name for item in structures_of(plan.labels)]
        folder.write(collect(scores, names), folder.fold("3d", fold).scores)
        record = collect_confidence(plan.labels, ["3d"], seen, dict.fromkeys(seen, fold))
        folder.write(record, folder.fold("3d", fold).confidence)
        rows[fold] = (seen, scores)
    everything = collect([score for _, scores in rows.values() for score in scores], names)
    return folder, plan, everything, rows


def test_what_the_folds_have_kept_is_calibrated(run, capsys):
    folder, plan, scores, rows = run
    kept = keep_confidence(folder, plan, CHOICE, scores)
    assert folder.read(Confidence, folder.confidence_file) == kept
    assert [case.case for case in kept.cases] == [row.case for row in scores.cases]
    assert {case.fold for case in kept.cases} == {0, 1}
    assert kept.cases[0].dice == scores.cases[0].dice
    assert len(kept.calibrations) == len(kept.structures) + 1
    assert kept.of_mean.num_cases == 12
    assert kept.of_mean.error is not None
    assert None not in [case.predicted_mean for case in kept.cases]
    assert (kept.folds, kept.weights) == (CHOICE.folds, CHOICE.weights)
    counts = [sum(item.bins[0][3].count for item in seen.values()) for seen, _ in rows.values()]
    assert kept.bins[0][3].count == sum(counts)
    assert kept.calibration_errors[0] == expected_calibration_error(kept.bins[0])
    assert "predicted Dice: off by" in capsys.readouterr().err


def test_an_ensemble_brings_what_was_watched(run):
    folder, plan, scores, rows = run
    for fold in (0, 1):  # another configuration, validated on the same cases
        folder.write(collect(rows[fold][1], scores.structures), folder.fold("2d", fold).scores)
    choice = dataclasses.replace(CHOICE, configurations=("2d", "3d"))
    watched = {case: item for seen, _ in rows.values() for case, item in seen.items()}
    kept = keep_confidence(folder, plan, choice, scores, watched)
    assert kept.configurations == ("2d", "3d")
    single = keep_confidence(folder, plan, CHOICE, scores)
    assert kept.calibrations == single.calibrations
    assert kept.bins == single.bins
    assert [case.fold for case in kept.cases] == [case.fold for case in single.cases]


def test_without_what_the_folds_know_nothing_is_predicted(run, capsys):
    folder, plan, scores, _ = run
    keep_confidence(folder, plan, CHOICE, scores)
    folder.fold("3d", 1).confidence.unlink()  # a run from before, or a target without probabilities
    assert keep_confidence(folder, plan, CHOICE, scores) is None
    assert not folder.confidence_file.exists()
    assert "not for this run" in capsys.readouterr().err


def test_a_case_is_a_record():
    case = CaseConfidence(case="a", fold=0, expected_dice=(0.5, None))
    assert case.mean_expected == 0.5
    assert dataclasses.replace(case, expected_dice=(None, None)).mean_expected is None
