"""Object pictures: the best, the median and the worst images, every object outlined by what became of it."""

from collections.abc import Sequence

from autoseg.errors import AutosegError
from autoseg.report.material import Material
from autoseg.report.object_facts import ImageRow, image_rows
from autoseg.report.object_views import object_views
from autoseg.report.opened_objects import OpenedObjects, open_objects
from autoseg.report.pictures import LABEL_ALONE, Picture, pick, score_word, whose
from planners.records import PlanError

NUM_ENLARGED = 2
"""Parts that are drawn enlarged beside an image: as many as are as tall as the image together."""

FAULTS = (AutosegError, PlanError, OSError, ValueError)


def draw_objects(material: Material) -> tuple[Picture, ...]:
    """Draw the best, the median and the worst images by F1; an image that cannot be read says why."""
    if material.instances is None or material.record is None or material.plan is None:
        return ()
    ranked = [row for row in image_rows(material.instances) if row.f1 is not None]
    return tuple(_scored(material, rank, row) for rank, row in pick(ranked))


def draw_object_losses(material: Material, ranked: Sequence[tuple[str, str, float]]) -> tuple[Picture, ...]:
    """Draw training images: rank, case and loss of each; without an out-of-fold prediction the label alone."""
    if material.record is None or material.plan is None:
        return ()
    return tuple(_with_loss(material, rank, case, loss) for rank, case, loss in ranked)


def _scored(material: Material, rank: str, row: ImageRow) -> Picture:
    try:
        case = open_objects(material, row.case)
        views = object_views(case, _axis(material), by_error=rank != "best", enlarged=NUM_ENLARGED)
    except FAULTS as fault:
        return Picture(rank=rank, case=row.case, problem=f"{fault}")
    value = score_word(row.f1)
    return Picture(
        rank=rank,
        case=row.case,
        value=f"F1 {value}",
        scores=((f"{row.num_labelled} labelled, {row.num_predicted} predicted:", row.errors),),
        views=views,
        note=_note(material, case),
        alt=f"{rank} image {row.case}, F1 {value}, {row.errors}",
        is_enlarged=True,
    )


def _with_loss(material: Material, rank: str, case_id: str, loss: float) -> Picture:
    try:
        case = open_objects(material, case_id, needs_prediction=False)
        views = object_views(case, _axis(material), by_error=True, enlarged=0)
    except FAULTS as fault:
        return Picture(rank=rank, case=case_id, problem=f"{fault}")
    text = f"{loss:.3f}".replace("-", "\u2212")
    note = _note(material, case) if case.configurations else LABEL_ALONE
    return Picture(rank=rank, case=case_id, value=text, views=views, note=note, alt=f"{rank}: {case_id}, loss {text}")


def _axis(material: Material) -> int:
    return material.plan.axis_order[0] if material.plan is not None else 0


def _note(material: Material, case: OpenedObjects) -> str:
    """Say whose prediction is drawn, and how it was decoded, where either is not as the choice has it."""
    notes = [whose(material, case.configurations)]
    if not case.as_chosen:
        notes.append("objects found with the settings of the plan, not with the chosen ones")
    return "; ".join(note for note in notes if note)
