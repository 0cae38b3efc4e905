"""What the user asks for becomes one record: the task of a dataset among it."""

import argparse
import dataclasses
from pathlib import Path

import pytest

from autoseg.command_line import build_parser
from autoseg.data.cases import Dataset
from autoseg.data.instance_labels import OBJECT_LABELS
from autoseg.data.tasks import TASKS
from autoseg.errors import OptionError, RunFolderError
from autoseg.options import RunOptions, options_from
from autoseg.planning import make_plan
from autoseg.provenance import open_record
from autoseg.run_folder import RunFolder, RunRecord
from planners.fingerprint import Channel, Fingerprint
from planners.labels import LabelClass, Labels


@pytest.mark.parametrize("task", TASKS)
def test_the_task_is_a_property_of_the_data(task: str) -> None:
    source, _ = options_from("cells", {"task": task, "epochs": 3})
    assert (source.task, source.dataset) == (task, Path("cells"))


def test_without_a_word_the_files_decide() -> None:
    assert options_from("cells", {})[0].task == "auto"


def test_an_unknown_task_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(OptionError, match=r"no task is named 'instances'; did you mean 'instance'\? .known: auto, "):
        options_from("cells", {"task": "instances"})


@pytest.mark.parametrize("verb", ["run", "plan", "check"])
def test_the_command_line_offers_the_tasks_there_are(verb: str) -> None:
    verbs = next(item for item in build_parser()._actions if isinstance(item, argparse._SubParsersAction))
    (option,) = [item for item in verbs.choices[verb]._actions if "--task" in item.option_strings]
    assert tuple(option.choices or ()) == TASKS
    assert build_parser().parse_args([verb, "cells", "--task", "instance"]).task == "instance"


CLASSES = (LabelClass(name="background", value=0), LabelClass(name="object", value=1))


def dataset_of(task: str, root: Path) -> Dataset:
    """A dataset whose labels are not declared."""
    return Dataset(name="d", root=root, layout="", channels=("a",), labels=None, cases=(), file_ending="", task=task)


def planned_for(root: Path, labels: Labels) -> RunFolder:
    """A run folder with a plan, whose record is of before there were tasks."""
    run = RunFolder(root / "run")
    open_record(dataset_of("auto", root), RunOptions(), run)
    run.change_record(options={"epochs": 3})
    shape = Fingerprint(
        dataset="d",
        channels=(Channel(name="a"),),
        labels=Labels(classes=labels.classes),
        num_cases=5,
        spacings_mm=((1.0, 1.0, 1.0),),
        shapes=((1, 64, 64),),
    )
    plan = make_plan(shape, RunOptions(budget_bytes=10**9, device="cpu"))
    run.write(dataclasses.replace(plan, labels=labels), run.plan_file)
    return run


def test_the_plan_of_a_folder_says_what_undeclared_labels_are(tmp_path: Path) -> None:
    """Maps of many classes that look like ids stay classes in a folder that was planned for classes."""
    run = planned_for(tmp_path, Labels(classes=CLASSES))
    opened = open_record(dataset_of("auto", tmp_path), RunOptions(), run)
    assert (opened.task, opened.labels) == ("semantic", None)
    assert run.read(RunRecord, run.run_file).options["task"] == "semantic"
    with pytest.raises(RunFolderError, match=r"for the task semantic, not instance\. Take instances out of dataset"):
        open_record(dataset_of("instance", tmp_path), RunOptions(), run)


def test_a_folder_planned_for_objects_goes_on_with_them(tmp_path: Path) -> None:
    run = planned_for(tmp_path, OBJECT_LABELS)
    for asked in ("auto", "instance"):
        assert open_record(dataset_of(asked, tmp_path), RunOptions(), run).task == "instance"
    assert open_record(dataset_of("auto", tmp_path), RunOptions(), run).labels == OBJECT_LABELS
    with pytest.raises(RunFolderError, match=r"for the task instance, not semantic\. Declare instances"):
        open_record(dataset_of("semantic", tmp_path), RunOptions(), run)


def test_without_a_plan_any_task_may_begin(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    for task in ("auto", "semantic", "instance", "auto"):
        dataset = dataset_of(task, tmp_path)
        assert open_record(dataset, RunOptions(), run) == dataset
        assert run.read(RunRecord, run.run_file).options["task"] == task
