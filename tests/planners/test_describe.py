import dataclasses
from pathlib import Path

import pytest

from planners import PLANNERS, Fingerprint, MemoryBudget, Plan
from planners.decision import byte_size, millimetres, percent, quantity, times
from planners.describe import WIDTH, describe
from planners.edit import set_training, set_value

KEPT = Path(__file__).parent / "kept_descriptions.txt"


def test_descriptions_stay(hippocampus: Plan, prostate: Plan, retina: Plan, liver: Plan) -> None:
    """A change of wording shows here: look at it, then keep it."""
    edited = set_training(set_value(hippocampus, "3d_fullres.patch_size", "[48, 64, 48]"), epochs=10, steps_per_epoch=5)
    text = "\n\n".join(describe(plan) for plan in (hippocampus, prostate, retina, edited, liver)) + "\n"
    assert text == KEPT.read_text()


def test_value_and_reason_stand_side_by_side(prostate: Plan) -> None:
    lines = describe(prostate).splitlines()
    (batch,) = (line for line in lines if line.startswith("  batch size      2 "))
    assert batch.endswith("the minimum; memory holds 2")
    assert any(line.startswith("3d_fullres ") and line.endswith("of 8.0 GB") for line in lines)


def test_lines_are_short_and_clean(kept: tuple[Fingerprint, MemoryBudget, dict[str, str]]) -> None:
    fingerprint, budget, theirs = kept
    for line in describe(PLANNERS[theirs["planner"]](fingerprint, budget)).splitlines():
        assert len(line) <= WIDTH
        assert line == line.rstrip()
        assert "\N{NO-BREAK SPACE}" not in line


def test_every_change_is_shown(hippocampus: Plan) -> None:
    plan = set_value(hippocampus, "2d.training.learning_rate", "0.02")
    plan = set_value(plan, "2d.training.learning_rate", "0.03")
    plan = set_value(plan, "2d.architecture.stages[1].features", "48")
    text = describe(plan)
    assert text.count("training.learning_rate = 0.03: set by the user (was 0.02)") == 1
    assert "  changed         architecture.stages.1.features = 48: set by the user (was 64)" in text


def part(plan: Plan, name: str) -> list[str]:
    return next(text for text in describe(plan).split("\n\n") if text.startswith(name)).splitlines()[1:]


def test_a_cascade_says_what_differs_from_the_full_resolution(liver: Plan) -> None:
    inputs, _, rest = part(liver, "3d_cascade_fullres")
    assert inputs.startswith("  inputs          image, 3d_lowres          the image, and the segmentation of 3d_lowres")
    assert rest.startswith("  all else        as 3d_fullres             second stage: 3d_lowres sees what")


def test_a_change_of_one_stage_is_seen_there_alone(liver: Plan) -> None:
    plan = set_value(liver, "3d_cascade_fullres.batch_size", "1")
    plan = set_value(plan, "3d_lowres.training.learning_rate", "0.02")
    assert any("set by the user (was 2)" in line for line in part(plan, "3d_cascade_fullres"))
    assert part(plan, "3d_fullres") == part(liver, "3d_fullres")
    assert part(plan, "3d_lowres")[-1].startswith("  changed         training.learning_rate = 0.02")


def test_a_cascade_without_its_full_resolution_is_described_in_full(liver: Plan) -> None:
    left = tuple(item for item in liver.configurations if item.name in ("3d_lowres", "3d_cascade_fullres"))
    titles = [line[2:16].strip() for line in part(dataclasses.replace(liver, configurations=left), "3d_cascade")]
    assert [title for title in titles if title][:2] == ["inputs", "spacing"]
    assert "all else" not in titles


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (times((40, 50.5, 35.0)), "40 × 50.5 × 35"),
        (millimetres((3.6, 0.625, 0.8)), "3.60 × 0.625 × 0.80 mm"),
        (millimetres((999, 0.004)), "999.00 × 0.004 mm"),
        (quantity(16_500), "16.5 k"),
        (quantity(452_796_416), "453 M"),
        (quantity(999_960), "1.00 M"),
        (quantity(3.1848e9), "3.18 G"),
        (quantity(42), "42"),
        (byte_size(7.44e9), "7.4 GB"),
        (byte_size(78e6), "78 MB"),
        (byte_size(56e4), "0.6 MB"),
        (percent(0.05), "5 %"),
        (percent(0.0012), "0.1 %"),
    ],
)
def test_wording_of_numbers(found: str, expected: str) -> None:
    assert found == expected
