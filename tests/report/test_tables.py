"""Tables of the page: candidates, postprocessing, metrics, losses."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from autoseg.evaluation.case_losses import CaseLoss, CaseLosses
from autoseg.evaluation.metric_records import Interval, MetricTable
from autoseg.evaluation.overlap import CaseScore, collect
from autoseg.report.choice_tables import candidate_table, change_rows, is_chosen, trial_rows
from autoseg.report.loss_tables import case_means, loss_section
from autoseg.report.material import Material, gather
from autoseg.report.metric_tables import MAX_ENTRIES, metric_note, metric_section, metric_title
from autoseg.report.score_tables import score_section
from autoseg.run_folder import RunFolder


@pytest.fixture
def material(make_run: Callable[..., RunFolder]) -> Material:
    return gather(make_run(num_cases=8, num_epochs=2))


def test_candidates_come_best_first_with_their_intervals(material: Material) -> None:
    table = candidate_table(material)
    assert table is not None
    assert table.has_intervals
    values = [float(row.value) for row in table.rows]
    assert values == sorted(values, reverse=True)
    assert [row.chosen for row in table.rows] == [True, False, False]
    for row in table.rows:
        low, high = map(float, row.interval.split("\u2013"))
        assert float(table.low) <= low <= float(row.value) + 5e-4
        assert high <= float(table.high) + 5e-4
        assert len(row.others) == 2


def test_of_equal_names_the_weights_tell_which_is_chosen(material: Material) -> None:
    choice = material.choice
    assert choice is not None
    even = replace(choice.candidates[-1], weights=(0.5, 0.5))
    uneven = replace(even, name="2d + 3d_fullres (1 : 4)", weights=(0.2, 0.8))
    weighted = replace(choice, weights=(0.2, 0.8), candidates=(even, uneven))
    assert [is_chosen(item, replace(material, choice=weighted)) for item in weighted.candidates] == [False, True]
    old = replace(weighted, weights=())
    assert [is_chosen(item, replace(material, choice=old)) for item in weighted.candidates] == [True, False]


def test_the_chosen_one_is_shown_among_many(material: Material) -> None:
    choice = material.choice
    assert choice is not None
    many = tuple(
        replace(choice.candidates[0], name=f"c{i}", configurations=(f"c{i}",), mean_dice=0.99) for i in range(50)
    )
    table = candidate_table(replace(material, choice=replace(choice, candidates=(*many, *choice.candidates))))
    assert table is not None
    assert sum(row.chosen for row in table.rows) == 1
    assert table.hidden == 53 - len(table.rows)


def test_changes_by_postprocessing_are_told_with_their_sign(material: Material) -> None:
    choice = material.choice
    assert choice is not None
    told = replace(
        choice, mean_before=0.5, dice_before=(0.6, choice.dice[1]), mean_dice=0.55, dice=(0.5, choice.dice[1])
    )
    mean, falls, same = change_rows(replace(material, choice=told))
    assert (mean.before, mean.after, mean.change, mean.rises) == ("0.5000", "0.5500", "+0.0500", True)
    assert (falls.change, falls.rises) == ("\u22120.1000", False)
    assert (same.change, same.rises) == ("0", None)
    tiny = replace(told, mean_before=0.55 - 1e-7, structures=choice.structures[:1])
    assert change_rows(replace(material, choice=tiny))[0].change == "less than 0.0001"
    old = replace(choice, mean_before=None, dice_before=())
    first = next(trial for trial in choice.trials if trial.accepted)
    assert change_rows(replace(material, choice=old))[0].before == f"{first.mean_before:.4f}"
    assert change_rows(replace(material, choice=replace(choice, postprocessing=()))) == ()
    assert len(trial_rows(material)) == len(choice.trials)


def test_the_mean_and_every_class_have_intervals(material: Material) -> None:
    section, scores = score_section(material), material.scores
    assert section is not None
    assert scores is not None
    assert section.mean is not None
    for row, value in zip((*section.rows, section.mean), (*scores.dice, scores.mean_dice), strict=True):
        low, high = map(float, row.interval.split("\u2013"))
        assert value is not None
        assert low - 5e-4 <= value <= high + 5e-4
    assert "With 8 cases" in section.narrow


def test_metrics_are_named_with_unit_direction_and_tolerance() -> None:
    assert metric_title("nsd@2").endswith("at 2 mm")
    assert metric_note("hd95") == "mm, lower is better"
    assert metric_note("volume_error") == "mm³, zero is best"
    assert (metric_title("not_known"), metric_note("not_known")) == ("not_known", "")


def test_of_many_structures_the_worst_are_listed(material: Material, metrics_of: Callable[..., MetricTable]) -> None:
    one = (1,) * 20
    rows = []
    for case in range(3):
        dice = tuple(0.5 + 0.02 * index + 0.001 * case for index in range(20))
        rows.append(CaseScore(case=f"c{case}", dice=dice, iou=dice, mean_dice=0.7, tp=one, fp=one, fn=one, tn=one,
                              num_predicted=one, num_labelled=one))  # fmt: skip
    table = metrics_of(collect(rows, [f"s{index:02d}" for index in range(20)]))
    section = metric_section(replace(material, metrics=table))
    assert section is not None
    worst = [f"s{index:02d}" for index in range(MAX_ENTRIES)]
    for listed in section.lists:
        assert [row.name for row in listed.rows] == worst, listed.title
    assert len(section.rows) == 21
    assert section.hidden == 20 - MAX_ENTRIES


def test_a_metric_without_a_value_is_a_dash_not_a_number(material: Material) -> None:
    table = material.metrics
    assert table is not None
    bare = replace(table, mean=(None,) * len(table.metrics), by_structure=((None,) * len(table.metrics),) * 2)
    section = metric_section(replace(material, metrics=bare))
    assert section is not None
    assert {cell for _, cells in section.rows for cell in cells} == {("–", "")}
    single = Interval(mean=3.0, low=3.0, high=3.0, num_cases=1)
    alone = metric_section(replace(material, metrics=replace(table, mean=(single,) * len(table.metrics))))
    assert alone is not None
    assert alone.rows[-1][1][0] == ("3.00", "")
    assert metric_section(replace(material, metrics=None)) is None


def test_losses_are_averaged_over_the_folds_that_trained_on_the_case(material: Material) -> None:
    def losses(*rows: tuple[str, float, str]) -> CaseLosses:
        made = tuple(
            CaseLoss(case=case, loss=loss, part="train" if part == "t" else "validation") for case, loss, part in rows
        )
        return CaseLosses(cases=made, patches_per_case=2)

    first = losses(("a", 0.5, "t"), ("b", 0.1, "t"), ("c", 0.9, "v"))
    second = losses(("a", 0.3, "t"), ("c", 0.2, "t"), ("b", 0.7, "v"))
    folds = [replace(fold, losses=found) for fold, found in zip(material.folds[:2], (first, second), strict=True)]
    assert case_means(folds, "train") == [(pytest.approx(0.4), "a"), (0.2, "c"), (0.1, "b")]
    section = loss_section(replace(material, folds=tuple(folds), choice=None))
    assert section is not None
    assert [row.case for row in section.highest] == ["a", "c"]
    assert [row.case for row in section.lowest] == ["b", "c"]
    assert section.gap == "The mean is 0.233 over training cases and 0.800 over validation cases."
    assert loss_section(replace(material, folds=())) is None
