"""What the user asks for becomes one record: the task of a dataset among it."""

import argparse
from pathlib import Path

import pytest

from autoseg.command_line import build_parser
from autoseg.data.cases import Dataset
from autoseg.data.instance_labels import TASKS
from autoseg.errors import OptionError, RunFolderError
from autoseg.options import RunOptions, options_from
from autoseg.provenance import open_record
from autoseg.run_folder import RunFolder, RunRecord


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


def test_a_run_keeps_to_the_task_it_was_planned_for(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")

    def open_with(task: str) -> str:
        dataset = Dataset(
            name="d", root=tmp_path, layout="", channels=("a",), labels=None, cases=(), file_ending="", task=task
        )
        open_record(dataset, RunOptions(), run)
        return str(run.read(RunRecord, run.run_file).options["task"])

    assert [open_with(task) for task in ("auto", "semantic", "instance", "instance")][-1] == "instance"
    run.plan_file.write_text("{}")
    assert open_with("instance") == "instance"
    with pytest.raises(RunFolderError, match=r"for the task instance, not auto\. Give --task instance again"):
        open_with("auto")
    run.change_record(options={"epochs": 3})
    assert open_with("semantic") == "semantic", "runs of before say nothing of tasks"
    run.change_record(options={"task": "auto"})
    assert open_with("instance") == "instance", "what was told from the files is declared now"
