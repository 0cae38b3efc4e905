"""Records of measured instances: what every metric gave, per image and over the images."""

from dataclasses import dataclass

from autoseg.data.check_problem import count
from autoseg.evaluation.folders import SHOWN
from autoseg.evaluation.instance_metrics import CURVE
from autoseg.evaluation.metric_records import Interval

ALL_OBJECTS = "all objects"
"""Name of the group that holds the objects of all classes; matched whatever their class."""


@dataclass(frozen=True, kw_only=True)
class ObjectScores:
    """What was measured of a group of objects in one image.

    Attributes:
        group: ``all objects``, or a class.
        values: per metric; None where it is not defined.
        num_labelled, num_predicted: objects that counted.
        found: objects found at each IoU threshold of ``InstanceComparison.thresholds``; AP and F1 follow.
    """

    group: str
    values: tuple[float | None, ...]
    num_labelled: int
    num_predicted: int
    found: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class InstanceCase:
    """What was measured in one image.

    Attributes:
        case: its id.
        scores: per group, in the order of ``InstanceComparison.groups``.
        num_deleted: objects of label and prediction that the protocol deleted before counting.
    """

    case: str
    scores: tuple[ObjectScores, ...]
    num_deleted: tuple[int, int] = (0, 0)


@dataclass(frozen=True, kw_only=True)
class InstanceSummary:
    """One metric over the images.

    Attributes:
        metric: its name.
        mean: over the images that have a value, with its interval; None where none has.
        median, lowest, highest: of the same.
        pooled: the score of all images taken as one; None where it is not defined, or is the mean.
        num_undefined: images without value.
    """

    metric: str
    mean: Interval | None
    median: float | None
    lowest: float | None
    highest: float | None
    pooled: float | None
    num_undefined: int

    def number(self, kind: str) -> float | None:
        """Give the ``mean``, ``median`` or ``pooled`` score."""
        return {"mean": self.mean.mean if self.mean else None, "median": self.median, "pooled": self.pooled}[kind]


@dataclass(frozen=True, kw_only=True)
class GroupSummary:
    """A group of objects over the images: a summary per metric, and the objects counted.

    Attributes:
        group: ``all objects``, or a class.
        metrics: in the order of ``InstanceComparison.metrics``.
        num_labelled, num_predicted: objects of all images.
    """

    group: str
    metrics: tuple[InstanceSummary, ...]
    num_labelled: int
    num_predicted: int


@dataclass(frozen=True, kw_only=True)
class InstanceComparison:
    """What came out of comparing the instances of two folders.

    Attributes:
        protocol: name of the preset.
        summary: the number it publishes: ``mean``, ``median`` or ``pooled``.
        metrics: names, such as ``ap@0.5``.
        groups: ``all objects``, then the classes where class maps were given.
        cases: sorted by id.
        totals: per group.
        class_mean: per metric, the mean over classes of the published number; empty without classes.
        problems: what could not be compared, each with what to do.
        hints: compared images in which something looks wrong, each by name; they are scored as they are.
        notes: what was left out by the rules.
        without_prediction, without_label: ids of all images that have only the other.
        num_unreadable: images that have both and could not be compared.
        num_allowed: predictions without label that the protocol does not call a fault.
        thresholds: IoU thresholds of ``ObjectScores.found``.
    """

    protocol: str
    summary: str
    metrics: tuple[str, ...]
    groups: tuple[str, ...]
    cases: tuple[InstanceCase, ...]
    totals: tuple[GroupSummary, ...]
    class_mean: tuple[float | None, ...] = ()
    problems: tuple[str, ...] = ()
    hints: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    without_prediction: tuple[str, ...] = ()
    without_label: tuple[str, ...] = ()
    num_unreadable: int = 0
    num_allowed: int = 0
    thresholds: tuple[float, ...] = CURVE

    @property
    def num_left_out(self) -> int:
        """Images that were not compared, and should have been."""
        return len(self.without_prediction) + len(self.without_label) - self.num_allowed + self.num_unreadable

    def text(self) -> str:
        """Lay out means, medians and pooled scores for the terminal, then the worst images, hints and problems."""
        from autoseg.evaluation.instance_text import instance_table

        parts = [instance_table(self)]
        for title, sentences in (("note", self.notes), ("compared, but look at", self.hints)):
            lines = [f"{title}:", *(f"  {sentence}" for sentence in sentences[:SHOWN])]
            if len(sentences) > SHOWN:
                lines.append(f"  and {len(sentences) - SHOWN} more (--json has all)")
            if sentences:
                parts.append("\n".join(lines))
        if self.problems:
            compared, left_out = count(len(self.cases), "image"), count(self.num_left_out, "image")
            lines = [f"{compared} compared, {left_out} not:", *(f"  {problem}" for problem in self.problems)]
            if max(len(self.without_prediction), len(self.without_label)) > SHOWN:
                lines.append("  (--json names every image)")
            parts.append("\n".join(lines))
        return "\n\n".join(parts)

    def csv(self) -> str:
        """Write a row per image and group, a column per metric; empty where there is no value."""
        from autoseg.evaluation.instance_text import instance_csv

        return instance_csv(self)
