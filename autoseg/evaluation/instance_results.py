"""What a run found of its objects out of fold (``instances.json``): metrics over the images, and each object's fate."""

from dataclasses import dataclass

from autoseg.evaluation.instance_records import InstanceComparison


@dataclass(frozen=True, kw_only=True)
class CaseObjectFacts:
    """The objects of one image, one entry per object that counted, in the order of their numbers.

    Attributes:
        case: its id.
        label_diameters: of the circle (in volumes: the ball) of equal size, mm.
        label_iou: with the partner; where there is none, the highest with any object of the prediction.
        label_errors: ``right``, ``missed``, ``merged`` or ``split`` (``instance_errors``).
        prediction_diameters: as of the label.
        prediction_errors: ``right``, ``invented``, ``merged`` or ``split``.
        surplus: how many of the predicted are pieces (``split``) of a labelled object that is right.
    """

    case: str
    label_diameters: tuple[float, ...]
    label_iou: tuple[float, ...]
    label_errors: tuple[str, ...]
    prediction_diameters: tuple[float, ...]
    prediction_errors: tuple[str, ...]
    surplus: int = 0


@dataclass(frozen=True, kw_only=True)
class InstanceResults:
    """What the chosen networks found in the images they have not seen, decoded with the chosen settings.

    Attributes:
        comparison: every metric of the default protocol, image by image and over the images.
        objects: per image, in the order of ``comparison.cases``.
    """

    comparison: InstanceComparison
    objects: tuple[CaseObjectFacts, ...]
