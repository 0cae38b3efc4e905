"""Comparison of runs: side by side where they can be, paired on the cases of both, and told apart where not."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from autoseg.evaluation.overlap import collect
from autoseg.evaluation.statistics import Difference
from autoseg.report import write_comparison
from autoseg.report.comparison import group, names_of
from autoseg.report.material import gather
from autoseg.report.paired import pair_section, record_differences, verdict
from autoseg.run_folder import RunFolder
from planners.labels import LabelClass, Labels

ORGANS = Labels(classes=tuple(LabelClass(name=name, value=i) for i, name in enumerate(("background", "liver", "cyst"))))


def text_of(path: Path) -> str:
    text = re.sub(r"<style>.*?</style>", " ", path.read_text(), flags=re.DOTALL)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", text))


def test_page_compares_what_can_be_compared(make_run: Callable[..., RunFolder], tmp_path: Path) -> None:
    runs = [
        make_run(folder="first", num_cases=9, num_epochs=3),
        make_run(folder="better", num_cases=8, num_epochs=5, better=3.0, seed=1, measured=False),
        make_run(folder="other", num_cases=4, num_epochs=2, labels=ORGANS, name="Organs"),
    ]
    out = tmp_path / "deep" / "comparison.html"
    assert write_comparison(runs, out) == out
    text = text_of(out)
    for part in (
        "3 runs",
        "2 on Hippocampus &lt;demo&gt; can be compared. 1 cannot be compared with the others.",
        "other/run : its dataset is Organs, not Hippocampus &lt;demo&gt;.",
        "Over 8 shared cases the mean Dice of better/run is higher by",
        "luck would do this with a probability",
        "1 case is scored in the first run alone",
        "With 8 cases such intervals are too narrow",
        "HD95 mm",
        "metrics.json is not there",
        "8.0 GB",
    ):
        assert part in text, part
    assert len(re.findall(r"▲ [01]\.", text)) == 3
    for word in ("nan", "None", "Undefined"):
        assert not re.search(rf"\b{word}\b", text), word
    page = out.read_text()
    assert "<script" not in page
    assert not re.search(r"(?:href|src)=\"(?!data:|#)", page)
    for drawing in re.findall(r"<svg[^>]*>", page):
        assert re.search(r'role="img" aria-label="[^"]+"', drawing), drawing


def test_runs_are_grouped_by_dataset_structures_and_shared_cases(make_run: Callable[..., RunFolder]) -> None:
    first = gather(make_run(folder="a", num_cases=4, num_epochs=2))
    other = gather(make_run(folder="b", num_cases=4, num_epochs=2, labels=ORGANS))
    assert first.scores is not None
    renamed = tuple(replace(row, case=f"new_{row.case}") for row in first.scores.cases)
    elsewhere = replace(first, scores=collect(renamed, first.scores.structures))
    groups, apart = group([first, other, replace(first, scores=None), first, elsewhere])
    assert groups == [[0, 3]]
    assert apart == [
        (1, "it scores liver, cyst, not anterior, posterior"),
        (2, "it has no scored case yet"),
        (4, "no case is scored in both"),
    ]
    assert group([first]) == ([], [(0, "no other run has scores")])


def test_names_are_as_short_as_they_can_be(make_run: Callable[..., RunFolder]) -> None:
    first = gather(make_run(folder="a", num_cases=2, num_epochs=2))
    second = gather(make_run(folder="b", num_cases=2, num_epochs=2))
    assert names_of([first]) == ["run"]
    assert names_of([first, second]) == ["a/run", "b/run"]
    assert names_of([first, first]) == ["1: run", "2: run"]


def test_pairs_doubt_runs_that_were_scored_against_other_labels(make_run: Callable[..., RunFolder]) -> None:
    first = gather(make_run(num_cases=4, num_epochs=2))
    assert first.scores is not None
    rows = [replace(row, num_labelled=(1, 2)) if row.case == "case_002" else row for row in first.scores.cases]
    second = replace(first, scores=collect(rows[1:], first.scores.structures))
    found = pair_section(first, second, ("first", "second"))
    assert found.verdict == "Over 3 shared cases the mean Dice is the same."
    assert found.notes == (
        "1 case is scored in the first run alone and does not count here.",
        "The labels of 1 shared case differ in size between the runs, so they were not scored against the same "
        "labels: case_002.",
    )
    assert found.rows[0][3:] == ("0", "0", "1.000")


def test_settings_of_one_run_alone_are_counted(make_run: Callable[..., RunFolder]) -> None:
    first = make_run(folder="a", num_cases=4, num_epochs=2)
    second = make_run(folder="b", num_cases=4, num_epochs=2, configurations=("3d_fullres",))
    rows = {what: values for what, *values in record_differences(first, second)}
    assert rows["configurations"] == ["2d + 3d_fullres", "3d_fullres"]
    assert re.fullmatch(r"\d\d settings that the other lacks", rows["2d"][0])
    assert rows["2d"][1] == "–"
    assert rows.keys() <= {"configurations", "postprocessing", "2d"}
    assert record_differences(first, first) == ()


def difference(mean: float, low: float, high: float, p: float, num_cases: int = 30) -> Difference:
    return Difference(mean=mean, low=low, high=high, num_cases=num_cases, p=p, exact=True)


@pytest.mark.parametrize(
    ("found", "parts"),
    [
        (
            difference(0.02, 0.01, 0.03, 0.0004),
            ("of b is higher by 0.0200 (95 % interval 0.0100 to 0.0300)", "below 0."),
        ),
        (
            difference(-0.02, -0.03, -0.01, 0.01),
            ("of a is higher by 0.0200 (95 % interval 0.0100 to 0.0300)", "of 0.010"),
        ),
        (difference(0.01, -0.01, 0.03, 0.4), ("of b is higher by 0.0100 (the 95 % interval holds 0)", "may be luck")),
        (difference(0.01, 0.01, 0.01, 1.0, 1), ("Over 1 shared case", "one case tells nothing")),
        (None, ("No case has a Dice in both",)),
    ],
)
def test_verdicts_say_which_is_better_and_how_sure_that_is(found: Difference | None, parts: tuple[str, ...]) -> None:
    text = verdict(found, ("a", "b"))
    for part in parts:
        assert part in text
