"""Measure a dataset: what the planners may know of it. One reading of each case serves the check and the fingerprint.

Per case: spacing, shape after cropping to nonzero, and a bounded sample of the foreground's intensities; where objects
are told apart, a few numbers of each object too (``instance_stats``). They are kept on disk, so that an interrupted run
goes on with the cases that are missing, and a changed file is measured anew alone.

Source: what is measured is what nnU-Net v2.8.1 measures. It draws 10⁸ / cases intensities per case, with replacement;
here a case gives all its foreground voxels, or an evenly drawn part without replacement where they are more than
10⁷ / cases, and every case has the same weight in the statistics, as it has there. So the numbers are those that its
drawing has in expectation. One more difference: voxels of the ignore label are no foreground here, in nnU-Net they are.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from autoseg.data.check import CheckResult, all_cases, examine_case, judge, settle_task
from autoseg.data.check_problem import count, line
from autoseg.data.dataset import Case, Dataset
from autoseg.data.io import Image
from autoseg.data.parallel import MemoryGate, for_each_case
from autoseg.errors import DatasetError
from autoseg.preprocessing.cropping import bounding_box, box_shape, full_box
from autoseg.preprocessing.image_percentiles import image_percentiles
from autoseg.preprocessing.instance_stats import MeasuredObjects, hulls_per_case, join_objects, measure_objects
from autoseg.preprocessing.kept_measures import FORMAT, CaseMeasure, KeptMeasure, Measured
from autoseg.preprocessing.preprocess import finite
from autoseg.preprocessing.size_features import VERSION, size_features
from planners import records
from planners.diameter import fit_scaling
from planners.fingerprint import Center, Channel, Fingerprint, Intensities, Spacing
from planners.instance_plan import enlarge
from planners.labels import Labels

SAMPLES_PER_CHANNEL = 10**7
"""Intensities kept per channel, over all cases: 40 MB. nnU-Net v2 draws 10⁸; a hundredth of these gives the 0.5th
percentile to within 0.002 percentiles (binomial)."""

PART_VOXELS = 1 << 20
"""Voxels looked at in one go: some tens of MB of temporary arrays."""

MOST_CENTERS = 1 << 16
"""Values spread wider than this are no classes with sides; their places are not measured."""

SEED = 1234  # nnU-Net v2's, for the same purpose


def measure_case(
    image_CZYX: np.ndarray,
    label_ZYX: np.ndarray,
    passed_over: Sequence[int | None],
    spacing_mm: Spacing,
    max_samples: int = SAMPLES_PER_CHANNEL,
) -> tuple[CaseMeasure, np.ndarray]:
    """Measure one case.

    Args:
        image_CZYX: channels, z, y, x as read; any number type. Non-finite voxels count as their channel's minimum.
        label_ZYX: the user's values.
        passed_over: values that are no foreground: background, and the ignore label or None.
        spacing_mm: z, y, x.
        max_samples: intensities to keep per channel.

    Returns:
        The measure, and the sample: float32, channels × n, the same voxels in every channel.
    """
    image = finite(image_CZYX)
    mask = image[0] != 0
    for channel in image[1:]:
        mask |= channel != 0
    foreground = label_ZYX != passed_over[0]
    for value in passed_over[1:]:
        if value is not None:
            foreground &= label_ZYX != value
    where = np.flatnonzero(foreground)
    measure = CaseMeasure(
        spacing_mm=spacing_mm,
        shape_before_crop=(mask.shape[0], mask.shape[1], mask.shape[2]),
        shape=box_shape(bounding_box(mask) or full_box(mask.shape)),
        foreground_voxels=len(where),
        centers=_centers(label_ZYX, where),
        percentiles=image_percentiles(image),
    )
    if len(where) > max_samples:
        where = np.sort(np.random.default_rng(SEED).choice(where, max_samples, replace=False))
    return measure, image.reshape(len(image), -1)[:, where]


def _centers(label_ZYX: np.ndarray, where: np.ndarray) -> tuple[tuple[int, Center], ...]:
    """Give the mean position of each value at some places (flat indices), rounded to a ten-thousandth."""
    if not len(where):
        return ()
    flat = np.ascontiguousarray(label_ZYX).reshape(-1)
    low = high = int(flat[where[0]])
    for start in range(0, len(where), PART_VOXELS):
        some = flat[where[start : start + PART_VOXELS]]
        low, high = min(low, int(some.min())), max(high, int(some.max()))
    if high - low >= MOST_CENTERS:
        return ()
    counts, sums = np.zeros(high - low + 1), np.zeros((3, high - low + 1))
    for start in range(0, len(where), PART_VOXELS):
        places = where[start : start + PART_VOXELS]
        value = flat[places].astype(np.intp) - low
        counts += np.bincount(value, minlength=len(counts))
        for row, position in zip(sums, np.unravel_index(places, label_ZYX.shape), strict=True):
            row += np.bincount(value, weights=position, minlength=len(counts))
    found = np.flatnonzero(counts)
    middle = (sums[:, found] / counts[found] + 0.5).T / label_ZYX.shape
    return tuple(
        (int(value) + low, (z, y, x)) for value, (z, y, x) in zip(found, middle.round(4).tolist(), strict=True)
    )


def check_and_measure(
    dataset: Dataset, folder: Path | None, *, store_folder: Path | None = None, threads: int | None = None
) -> tuple[CheckResult, Fingerprint | None]:
    """Check a dataset and measure it in one reading.

    Args:
        dataset: as ``open_dataset`` gives it.
        folder: keeps what was measured, one pair of files per case; None keeps nothing.
        store_folder: the run folder, on whose disk the preprocessed cases will be; None leaves the disk out.
        threads: cases at a time; default: the processors this process may use.

    Returns:
        What the check found, and the fingerprint; None where a problem stops the run.
    """
    measured = _measure_all(dataset, dataset.labels, folder, threads)
    settled = settle_task(dataset, [case.facts for case in measured])
    if settled.labels != dataset.labels:  # they are ids of objects, and were read as classes
        dataset, measured = settled, _measure_all(settled, settled.labels, folder, threads)
    result = judge(
        dataset,
        [case.facts for case in measured],
        store_folder=store_folder,
        threads=threads,
        rescaled_mm=_rescaled(dataset, measured),
    )
    if result.stops or result.labels is None:
        return result, None
    if result.labels.classes[0].value != _background(dataset.labels):
        measured = _measure_all(dataset, result.labels, folder, threads)
    return result, _fingerprint(dataset, result.labels, measured)


def fingerprint_dataset(
    dataset: Dataset, labels: Labels, folder: Path | None = None, *, threads: int | None = None
) -> Fingerprint:
    """Measure a dataset that has been checked.

    Raises:
        DatasetError: a case cannot be measured; the message lists all of them.
    """
    measured = _measure_all(dataset, labels, folder, threads)
    faulty = [item for case in measured for item in case.facts.problems if item.stops]
    if faulty:
        lines = "\n".join(f"  {line(item)}" for item in faulty)
        raise DatasetError(f"{count(len(faulty), 'problem')} in {dataset.name}\n{lines}")
    return _fingerprint(dataset, labels, measured)


def intensities(samples: Sequence[np.ndarray]) -> Intensities | None:
    """Describe one channel's foreground over all cases, each case with the same weight.

    Args:
        samples: per case, n intensities; cases without foreground are passed over.

    Returns:
        The statistics; None where no case has foreground.

    Source: nnU-Net v2.8.1 draws the same number of intensities of every case; these are that drawing's expectations.
    """
    filled = [sample for sample in samples if len(sample)]
    if not filled:
        return None
    values = np.concatenate(filled).astype(np.float64)
    weights = np.repeat([1 / (len(filled) * len(sample)) for sample in filled], [len(sample) for sample in filled])
    mean = float(np.dot(values, weights))
    order = np.argsort(values)
    values, weights = values[order], weights[order]
    middle = np.cumsum(weights) - weights / 2
    low, median, high = np.interp([0.005, 0.5, 0.995], middle, values)
    return Intensities(
        mean=mean,
        median=float(median),
        std=float(np.sqrt(np.dot((values - mean) ** 2, weights))),
        minimum=float(values[0]),
        maximum=float(values[-1]),
        percentile_00_5=float(low),
        percentile_99_5=float(high),
    )


def _background(labels: Labels | None) -> int:
    """Give the value of the background; before the labels are known, the value that it nearly always has."""
    return 0 if labels is None else labels.classes[0].value


def _measure_all(dataset: Dataset, labels: Labels | None, folder: Path | None, threads: int | None) -> list[Measured]:
    """Check and measure every case, several at a time; what is kept and still true is not read again."""
    passed_over = (_background(labels), None if labels is None else labels.ignore)
    num_cases = len(dataset.cases)
    with_ids = labels is not None and bool(labels.instance_classes)
    about_ids = [labels, hulls_per_case(num_cases), VERSION] if with_ids else []
    key = records.digest([FORMAT, passed_over, _samples_per_case(num_cases), *about_ids])
    if folder is not None and with_ids:
        folder = folder / "objects"  # of labels that nobody declared, both readings are kept

    def work(item: tuple[Case, bool], gate: MemoryGate) -> Measured:
        case, test = item
        kept = KeptMeasure(folder, case, test=test) if folder is not None else None
        found = kept.find(key) if kept is not None else None
        if found is None:
            before = kept.stamp() if kept is not None else None  # a file that changes meanwhile will be measured again
            found = _examine(case, labels, num_cases, test=test, gate=gate)
            if kept is not None and before is not None:
                kept.keep(key, found, before)
        return found

    return list(for_each_case(work, all_cases(dataset), "checking and measuring", threads).values())


def _samples_per_case(num_cases: int) -> int:
    return max(1, SAMPLES_PER_CHANNEL // max(1, num_cases))


def _examine(case: Case, labels: Labels | None, num_cases: int, *, test: bool, gate: MemoryGate) -> Measured:
    measured: list[tuple[CaseMeasure, np.ndarray, MeasuredObjects | None]] = []
    passed_over = (_background(labels), None if labels is None else labels.ignore)

    def also(image: Image, image_CZYX: np.ndarray, label_ZYX: np.ndarray, ids_ZYX: np.ndarray | None) -> None:
        spacing_mm, objects = image.geometry.spacing_mm, None
        measure, sample = measure_case(image_CZYX, label_ZYX, passed_over, spacing_mm, _samples_per_case(num_cases))
        if ids_ZYX is not None:
            objects = measure_objects(ids_ZYX, spacing_mm, hulls_per_case(num_cases))
            features = size_features(image_CZYX, spacing_mm)
            measure = dataclasses.replace(measure, size_features=features, has_objects=True)
        measured.append((measure, sample, objects))

    facts = examine_case(case, test=test, gate=gate, also=also, labels=labels)
    return Measured(facts, *measured[0]) if measured else Measured(facts)


def _fingerprint(dataset: Dataset, labels: Labels, measured: Sequence[Measured]) -> Fingerprint:
    cases = [(case.facts, case.measure, case.sample_CN) for case in measured]
    sound = [(facts, measure, sample) for facts, measure, sample in cases if measure is not None and sample is not None]
    counts = [dict(facts.label.values) if facts.label is not None else {} for facts, _, _ in sound]
    centers = [dict(measure.centers) for _, measure, _ in sound]
    annotated = {case.id: case.annotated_classes for case in dataset.cases}
    objects = [case.objects for case in measured if case.objects is not None]
    features = tuple(measure.size_features for _, measure, _ in sound)
    class_voxels = tuple(
        _per_class(labels, found, annotated.get(facts.id)) for (facts, _, _), found in zip(sound, counts, strict=True)
    )
    return Fingerprint(
        dataset=dataset.name,
        channels=tuple(
            Channel(name=name, intensities=intensities([sample[index] for _, _, sample in sound]))
            for index, name in enumerate(dataset.channels)
        ),
        labels=labels,
        num_cases=len(sound),
        case_ids=tuple(facts.id for facts, _, _ in sound),
        spacings_mm=tuple(measure.spacing_mm for _, measure, _ in sound),
        shapes=tuple(measure.shape for _, measure, _ in sound),
        cropped_fraction=float(np.median([measure.cropped_fraction for _, measure, _ in sound])),
        class_voxels=class_voxels,
        class_centers=tuple(tuple(found.get(item.value) for item in labels.classes) for found in centers),
        orientations=tuple(facts.orientation for facts, _, _ in sound),
        image_percentiles=tuple(measure.percentiles for _, measure, _ in sound),
        instances=join_objects(objects, _background_fraction(class_voxels)),
        size_features=features if labels.instance_classes else (),
    )


def _rescaled(dataset: Dataset, measured: Sequence[Measured]) -> dict[str, Spacing]:
    """Give per case the spacing that it comes to where planning will bring objects to a common size; else nothing."""
    known = [(case.facts.id, case.measure, case.objects) for case in measured]
    sound = [
        (name, measure, objects) for name, measure, objects in known if measure is not None and objects is not None
    ]
    stats = join_objects([objects for _, _, objects in sound], 1.0)
    if dataset.labels is None or stats is None:
        return {}
    facts = Fingerprint(
        dataset=dataset.name,
        channels=tuple(Channel(name=name) for name in dataset.channels),
        labels=dataset.labels,
        num_cases=len(sound),
        spacings_mm=tuple(measure.spacing_mm for _, measure, _ in sound),
        shapes=tuple(measure.shape for _, measure, _ in sound),
        instances=stats,
        size_features=tuple(measure.size_features for _, measure, _ in sound),
    )
    seen = enlarge(facts, fit_scaling(facts).value)
    return dict(zip((name for name, _, _ in sound), seen.spacings_mm, strict=True))


def _background_fraction(class_voxels: Sequence[Sequence[int | None]]) -> float:
    """Give the share of background among annotated voxels; where a class was not annotated, nobody knows it."""
    whole = [[voxels for voxels in case if voxels is not None] for case in class_voxels if None not in case]
    total = sum(map(sum, whole))
    return sum(case[0] for case in whole) / total if total else 1.0


def _per_class(labels: Labels, voxels: dict[int, int], annotated: Sequence[int] | None) -> tuple[int | None, ...]:
    """Give the voxels of each class, None where the case has not been annotated for it."""
    return tuple(
        voxels.get(item.value, 0) if annotated is None or index in annotated else None
        for index, item in enumerate(labels.classes)
    )
