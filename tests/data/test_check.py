"""The check of a dataset: sound ones are ready, many problems are listed at once, by case, and kept as a record."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import SimpleITK

from autoseg.data.check import KINDS, CheckResult
from planners import records


def test_a_sound_dataset_is_ready(spoiled) -> None:
    result = spoiled.check()
    assert result.problems == ()
    assert result.text() == "ready: 6 cases, 2 channels, 3 labels, 1 test image"


def test_labels_that_are_not_declared_are_found(spoiled) -> None:
    spoiled.declare(labels=None)
    result = spoiled.check()
    assert result.labels is not None
    assert result.labels.values == (0, 1, 2)
    assert not result.problems
    assert "label_1 = 1" in result.text()


def test_faults_of_test_images_stop_nothing(spoiled) -> None:
    spoiled.truncate(spoiled.image(90, 1, "imagesTs"))
    result = spoiled.check()
    assert spoiled.found(result) == {("unreadable-file", "case_90")}
    assert not result.stops
    assert result.text().splitlines()[-2].startswith("ready: 6 cases")


def test_test_image_with_another_number_of_channels(spoiled) -> None:
    volume = np.stack(3 * [spoiled.make_case(90)[0][0]], axis=-1)
    image = SimpleITK.GetImageFromArray(volume, isVector=True)
    for channel in range(2):
        SimpleITK.WriteImage(image, str(spoiled.image(90, channel, "imagesTs")))
    result = spoiled.check()
    assert spoiled.found(result) == {("extra-channel", "case_90")}
    assert not result.stops


def test_all_problems_are_listed_at_once_by_case(spoiled) -> None:
    plant: dict[int, Callable[[], None]] = {
        0: lambda: spoiled.truncate(spoiled.image(0)),
        1: lambda: spoiled.write(spoiled.label(1), spoiled.make_case(1)[1][:-1]),
        2: lambda: spoiled.write(spoiled.label(2), spoiled.make_case(2)[1] * 3),
        3: lambda: spoiled.image(3, 1).unlink(),
        4: lambda: spoiled.label(4).unlink(),
        5: lambda: spoiled.write(spoiled.image(5), np.zeros(spoiled.shape, dtype=np.uint8)),
    }
    for spoil in plant.values():
        spoil()
    result = spoiled.check()
    assert [(item.case, item.kind) for item in result.problems] == [
        ("case_00", "unreadable-file"),
        ("case_01", "label-shape"),
        ("case_02", "undeclared-label"),
        ("case_03", "missing-channel"),
        ("case_04", "image-without-label"),
        ("case_05", "constant-image"),
    ]
    lines = result.text().splitlines()
    assert lines[0] == "5 problems in spoiled"
    assert lines[6] == "1 warning on spoiled"
    assert lines[-2:] == [
        "not ready: 1 of 6 cases without a problem (2 channels, 3 labels, 1 test image)",
        "1 warning",
    ]
    assert result.num_fine == 1
    assert len(result.warning_lines()) == 1


def test_many_problems_of_one_kind_are_listed_together(spoiled) -> None:
    for case in range(spoiled.num_cases):
        spoiled.write(spoiled.label(case), np.zeros((1 + case, 4, 4), dtype=np.uint8))
    spoiled.declare(labels={"background": 0, "outer": 1})
    one_kind = [item for item in spoiled.check().problems if item.kind == "label-shape"]
    assert [item.case for item in one_kind] == [f"case_{case:02d}" for case in range(spoiled.num_cases)]
    many = CheckResult(
        dataset="d", num_cases=20, num_test_cases=0, channels=("T1",), labels=None,
        problems=tuple(dataclasses.replace(one_kind[0], case=f"c{n:02d}", found=f"wrong {n}") for n in range(20)),
    )  # fmt: skip
    lines = many.text().splitlines()
    assert lines[0] == "20 problems in d"
    assert lines[6].startswith("  and for 15 more cases: c05, c06")
    assert "c19. [label-shape]" in lines[6]
    alike = dataclasses.replace(
        many, problems=tuple(dataclasses.replace(p, found="T2 is missing") for p in many.problems)
    )
    assert alike.text().splitlines()[1].startswith("  T2 is missing for 20 cases: c00, c01, c02")


def test_result_is_a_record(spoiled) -> None:
    spoiled.write(spoiled.label(2), spoiled.make_case(2)[1] * 3)
    result = spoiled.check()
    assert records.from_json(CheckResult, json.loads(records.dumps(result))) == result


def test_every_kind_has_a_row_in_the_documents() -> None:
    document = (Path(__file__).parents[2] / "dataset_conventions.md").read_text()
    section = document[document.index("## What `autoseg check` says") :]
    for name, kind in KINDS.items():
        row = f"| `{name}` | {'stops' if kind.stops else 'warns'} | {kind.meaning} | {kind.fix} |"
        assert section.count(f"| `{name}` |") == 1
        assert row in section.splitlines()
