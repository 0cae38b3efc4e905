"""Object facts: what became of the objects, image by image and all together, from the records of a run."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from autoseg.evaluation.instance_errors import INVENTED, MERGED, MISSED, RIGHT, SPLIT
from autoseg.evaluation.instance_records import ObjectScores
from autoseg.evaluation.instance_results import InstanceResults
from autoseg.report.material import Material

LABEL_KINDS = (RIGHT, MERGED, SPLIT, MISSED)
PREDICTION_KINDS = (RIGHT, MERGED, SPLIT, INVENTED)
KINDS = (RIGHT, MERGED, SPLIT, MISSED, INVENTED)
"""What became of objects, in the order in which everything shows it."""

MEANINGS = {
    RIGHT: "label and prediction are partners: what they share is at least half of what they cover together",
    MERGED: "one predicted object covers most of two or more labelled ones; and those of them that it is no partner of",
    SPLIT: "predicted objects that are pieces of one labelled object; and that object, where it has no partner "
    "(where it has one, the other pieces are surplus)",
    MISSED: "labelled, and nothing predicted is its partner: not found, or outlined too badly",
    INVENTED: "predicted, and nothing labelled is its partner",
}


@dataclass(frozen=True, kw_only=True)
class ImageRow:
    """One image.

    Attributes:
        case: its id.
        f1: at the lowest threshold; None where there are no objects at all.
        ap: mean over the thresholds, likewise.
        num_labelled, num_predicted: objects.
        labelled, predicted: how many of them are of each kind; empty where that was not kept.
        surplus: predicted pieces of labelled objects that are right.
    """

    case: str
    f1: float | None
    ap: float | None
    num_labelled: int
    num_predicted: int
    labelled: Mapping[str, int] = field(default_factory=dict)
    predicted: Mapping[str, int] = field(default_factory=dict)
    surplus: int = 0

    @property
    def errors(self) -> str:
        """What went wrong, in words: labelled objects, then what was predicted beside them."""
        counts = [(kind, self.labelled.get(kind, 0)) for kind in LABEL_KINDS[1:]]
        return errors_text([*counts, (INVENTED, self.predicted.get(INVENTED, 0))], self.surplus)


def errors_text(counts: Sequence[tuple[str, int]], surplus: int) -> str:
    """Word how many objects are wrong in which way, and how many predicted ones are pieces beside a partner."""
    listed = [f"{count} {kind}" for kind, count in counts if count]
    if surplus:
        listed.append(f"{surplus} surplus piece{'s' * (surplus > 1)}")
    return ", ".join(listed) or "no error"


def image_rows(results: InstanceResults) -> tuple[ImageRow, ...]:
    """Lay out every image, the best first; images without any object come last."""
    facts = {item.case: item for item in results.objects}
    rows = []
    for case in results.comparison.cases:
        scores, known = case.scores[0], facts.get(case.case)
        curve = [average_precision(scores, place) for place in range(len(scores.found))]
        present = [value for value in curve if value is not None]
        rows.append(
            ImageRow(
                case=case.case,
                f1=f1(scores, 0),
                ap=sum(present) / len(present) if present else None,
                num_labelled=scores.num_labelled,
                num_predicted=scores.num_predicted,
                labelled=Counter(known.label_errors) if known is not None else {},
                predicted=Counter(known.prediction_errors) if known is not None else {},
                surplus=known.surplus if known is not None else 0,
            )
        )
    return tuple(sorted(rows, key=lambda row: (row.f1 is None, -(row.f1 or 0.0), -(row.ap or 0.0), row.case)))


def f1(scores: ObjectScores, place: int) -> float | None:
    """Give F1 of an image at a threshold; None where neither map holds an object."""
    bottom = scores.num_labelled + scores.num_predicted
    return 2 * scores.found[place] / bottom if bottom else None


def average_precision(scores: ObjectScores, place: int) -> float | None:
    """Give AP of an image at a threshold: TP / (TP + FP + FN); None where neither map holds an object."""
    bottom = scores.num_labelled + scores.num_predicted - scores.found[place]
    return scores.found[place] / bottom if bottom else None


def kind_counts(rows: Sequence[ImageRow]) -> tuple[Counter[str], Counter[str]]:
    """Add up the kinds of all images: labelled objects, predicted objects."""
    labelled, predicted = Counter[str](), Counter[str]()
    for row in rows:
        labelled.update(row.labelled)
        predicted.update(row.predicted)
    return labelled, predicted


def length_unit(material: Material) -> str:
    """Say what a diameter is counted in: ``mm``, or voxels where no file says how large one is (1 mm then)."""
    fingerprint = material.fingerprint
    if fingerprint is None:
        return "mm"
    flat = all(shape[0] == 1 for shape in fingerprint.shapes)
    lengths = {value for spacing in fingerprint.spacings_mm for value in spacing[flat:]}
    return "mm" if lengths != {1.0} else "pixels" if flat else "voxels"


def share(count: int, total: int) -> str:
    """Write a share in percent."""
    return f"{100 * count / total:.1f} %" if total else "–"
