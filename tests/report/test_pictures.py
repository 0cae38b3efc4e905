"""Pictures: which cases and slices are shown, and that a case that cannot be read says why."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from autoseg.evaluation.overlap import CaseScore
from autoseg.report.material import gather
from autoseg.report.opened import find_prediction
from autoseg.report.pictures import choose_cases, draw_losses, draw_pictures
from autoseg.report.views import choose_slice
from autoseg.run_folder import RunFolder


def row(case: str, dice: float | None) -> CaseScore:
    one = (1,)
    return CaseScore(
        case=case,
        dice=(dice,),
        iou=(dice,),
        mean_dice=dice,
        tp=one,
        fp=one,
        fn=one,
        tn=one,
        num_predicted=one,
        num_labelled=one,
    )


def test_best_median_and_worst_are_chosen() -> None:
    rows = [row(f"c{index}", index / 10) for index in range(1, 10)] + [row("empty", None)]
    chosen = [(rank, item.case) for rank, item in choose_cases(rows)]
    assert chosen == [
        ("best", "c9"),
        ("median", "c5"),
        ("worst", "c1"),
        ("second worst", "c2"),
        ("third worst", "c3"),
    ]


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4])
def test_few_cases_are_shown_once_each(count: int) -> None:
    chosen = [item.case for _, item in choose_cases([row(f"c{index}", 0.5) for index in range(count)])]
    assert len(chosen) == len(set(chosen)) == count


def test_bad_cases_show_their_error_and_good_ones_their_foreground() -> None:
    foreground, wrong = np.zeros((2, 5, 4, 3), dtype=bool)
    foreground[1], wrong[3, 0, 0] = True, True
    assert choose_slice(foreground, wrong, 0, by_error=True) == (3, "most wrong voxels")
    assert choose_slice(foreground, wrong, 0, by_error=False) == (1, "most foreground")
    assert choose_slice(foreground, np.zeros_like(wrong), 0, by_error=True) == (1, "most foreground")
    wrong[2, :, 2] = True
    assert choose_slice(foreground, wrong, 2, by_error=True) == (2, "most wrong voxels")


def test_pictures_are_drawn_from_the_files_of_the_run(make_run: Callable[..., RunFolder]) -> None:
    material = gather(make_run(num_cases=9, keep_pair=False))
    pictures = draw_pictures(material)
    assert [item.rank for item in pictures] == ["best", "median", "worst", "second worst", "third worst"]
    assert [len(item.views) for item in pictures] == [1, 1, 3, 3, 3]
    assert material.scores is not None
    scores = {row.case: row for row in material.scores.cases}
    for picture in pictures:
        assert picture.problem == ""
        assert picture.value == f"{scores[picture.case].mean_dice:.3f}"
        assert picture.case in picture.alt
        assert picture.note == "drawn is the prediction of 3d_fullres alone"
        for view in picture.views:
            assert view.image.startswith("data:image/png;base64,")
            assert view.label or view.wrong
    assert "along z" in pictures[0].views[0].caption
    assert [view.plane for view in pictures[2].views] == ["axial", "coronal", "sagittal"]


def test_cases_with_a_loss_are_drawn_with_or_without_a_prediction(make_run: Callable[..., RunFolder]) -> None:
    run = make_run(num_cases=4, num_folds=2)
    for path in run.root.rglob("case_001.nii.gz"):
        path.unlink()
    ranked = [
        ("highest loss", "case_003", 0.25),
        ("lowest loss", "case_001", -0.5),
        ("second lowest loss", "gone", 0.0),
    ]
    first, second, third = draw_losses(gather(run), ranked)
    assert (first.value, first.note, len(first.views)) == ("0.250", "", 1)
    assert first.views[0].wrong
    assert second.value == "\u22120.500"
    assert "there is no out-of-fold prediction" in second.note
    assert second.views[0].label
    assert second.views[0].prediction == "", "the label alone"
    assert second.views[0].wrong == ""
    assert third.problem == "run.json does not say where this case's files are."


def test_of_a_chosen_pair_its_own_prediction_is_drawn(make_run: Callable[..., RunFolder]) -> None:
    run = make_run(num_cases=9)
    material = gather(run)
    pair = ("2d", "3d_fullres")
    assert material.choice is not None
    assert material.choice.configurations == pair
    assert find_prediction(material, "case_003") == (pair, run.out_of_fold / "case_003.nii.gz")
    pictures = draw_pictures(material)
    assert all(item.note == "" for item in pictures)
    (run.out_of_fold / f"{pictures[2].case}.nii.gz").unlink()
    alone = draw_pictures(material)[2]
    assert alone.note == "drawn is the prediction of 3d_fullres alone"
    assert alone.views[0].prediction != pictures[2].views[0].prediction


def test_the_speck_that_postprocessing_removes_is_not_drawn(make_run: Callable[..., RunFolder]) -> None:
    material = gather(make_run(num_cases=4, num_folds=1, configurations=("2d",)))
    assert material.choice is not None
    assert material.choice.postprocessing[0].name == "all foreground"
    found = find_prediction(material, "case_000")
    assert found is not None
    best = next(item for item in draw_pictures(material) if item.case == "case_000")
    assert "M0 0h2" not in best.views[0].prediction


def test_what_cannot_be_drawn_says_why(make_run: Callable[..., RunFolder]) -> None:
    run = make_run(num_cases=4, num_folds=1)
    material = gather(run)
    assert material.record is not None
    Path(material.record.cases[0].images[0]).write_bytes(b"broken")
    Path(str(material.record.cases[1].label)).unlink()
    for path in run.root.rglob("case_002.nii.gz"):
        path.unlink()
    problems = {item.case: item.problem for item in draw_pictures(material)}
    assert "case_000_0000.nii.gz" in problems["case_000"]
    assert "case_001.nii.gz" in problems["case_001"]
    assert problems["case_002"] == "its prediction is not in the run folder."
    assert problems["case_003"] == ""
