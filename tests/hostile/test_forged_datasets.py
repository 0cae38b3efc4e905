"""Datasets, records and weights made to lead astray: names that are paths, links in circles, pickles, doubles."""

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hostile_driver import Ending, Worker
from hostile_seeds import lay_dataset, nifti, weights_seed
from hypothesis import HealthCheck, settings
from hypothesis import given as drawn
from hypothesis import strategies as st

from autoseg.data.splits import Splits
from planners import records

Do = Callable[..., Ending]
BAD_NAMES = ["../a", "..", "/a", "a/b", "a\\b", "a\nb", "", " ", "x" * 201, "é" * 101, "a\x1b[2J"]


@pytest.fixture
def do(worker: Worker, model_worker: Worker) -> Do:
    """Give a function that runs a job and sees that it ends in order."""

    def run(job: str, given: Any) -> Ending:
        ending = (model_worker if job == "command" else worker).do(job, given)
        assert not ending.complaint, ending.complaint
        return ending

    return run


# -------------------------------------------------------------------------------------------------------------- names


@pytest.mark.parametrize("name", BAD_NAMES)
def test_case_ids_of_a_description_cannot_be_paths(do: Do, given: Path, name: str) -> None:
    lay_dataset(given)
    listed = {name: {"images": ["imagesTr/a_0000.nii.gz"], "label": "labelsTr/a.nii.gz"}}
    content = {"channel_names": ["MRI"], "labels": {"background": 0, "rim": 1}, "dataset": listed}
    (given / "dataset.json").write_text(json.dumps(content))
    ending = do("dataset", str(given / "dataset.json"))
    assert ending.kind == "DatasetError"
    assert "files are named after it" in ending.says


@pytest.mark.parametrize("name", ["imagesTr/" + "a" * 256, "a/" * 2100 + "a.nii.gz", "imagesTr/" + "é" * 130])
@pytest.mark.parametrize("described_by", ["table", "decathlon", "described"])
def test_names_of_files_that_no_file_system_takes(do: Do, given: Path, name: str, described_by: str) -> None:
    lay_dataset(given)
    content: dict[str, Any] = {"channel_names": ["MRI"], "labels": {"background": 0, "rim": 1}}
    if described_by == "table":
        (given / "dataset.json").unlink()
        (given / "table.csv").write_text(f"case,image,label\na,{name},labelsTr/a.nii.gz\n")
    elif described_by == "decathlon":
        content["training"] = [{"image": name, "label": "labelsTr/a.nii.gz"}]
        (given / "dataset.json").write_text(json.dumps(content))
    else:
        content["dataset"] = {"a": {"images": [name], "label": "labelsTr/a.nii.gz"}}
        (given / "dataset.json").write_text(json.dumps(content))
    ending = do("dataset", str(given / ("table.csv" if described_by == "table" else "dataset.json")))
    assert ending.kind == "DatasetError"
    assert "more than file systems take" in ending.says


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"training": ["x" * 5000]}, "is no pair"),
        ({"training": [{"image": [], "label": "labelsTr/a.nii.gz"}]}, "list of images is empty"),
        ({"test": True}, "test is true; list the images"),
        ({"test": [[]]}, "list of images is empty"),
        ({"instances": ["x" * 5000]}, "instances names"),
        ({"instances": [[0] * 2000]}, "List the classes whose objects are told apart"),
    ],
)
def test_lists_of_a_description_that_are_none(do: Do, given: Path, change: dict[str, Any], says: str) -> None:
    """Found by a hundred thousand mutations."""
    lay_dataset(given)
    content = {"modality": {"0": "MRI"}, "labels": {"background": 0, "rim": 1}}
    content["training"] = [{"image": "imagesTr/a_0000.nii.gz", "label": "labelsTr/a.nii.gz"}]
    (given / "dataset.json").write_text(json.dumps(content | change))
    ending = do("dataset", str(given / "dataset.json"))
    assert ending.kind == "DatasetError"
    assert says in ending.says


@pytest.mark.parametrize("name", ["../../a", "/tmp/a", "a/../../b"])
def test_case_ids_of_a_table_cannot_be_paths(do: Do, given: Path, name: str, strays: Callable[[], set[str]]) -> None:
    lay_dataset(given)
    before = strays()
    (given / "table.csv").write_text(f"case,image,label\n{name},imagesTr/a_0000.nii.gz,labelsTr/a.nii.gz\n")
    for arguments in (["check", str(given / "table.csv")],):
        ending = do("command", arguments)
        assert ending.end == "refused"
        assert "files are named after it" in ending.says
    assert strays() == before


@pytest.mark.parametrize("name", BAD_NAMES)
@pytest.mark.parametrize("file", ["run.json", "plan.json"])
def test_names_in_records_cannot_be_paths(
    model_worker: Worker, records: dict[str, bytes], given: Path, name: str, file: str
) -> None:
    content = json.loads(records[file])
    (content["cases"][0] if file == "run.json" else content["configurations"][0]).update(
        {"id": name} if file == "run.json" else {"name": name}
    )
    (given / file).write_text(json.dumps(content))
    ending = model_worker.do("record", str(given / file))
    assert not ending.complaint
    assert ending.end == "refused"
    assert "named after it" in ending.says


@pytest.mark.parametrize("name", ["case 1", "Größe", "患者一", "a.b-c_d", "..a", "x" * 200])
def test_names_of_people_are_taken(do: Do, given: Path, name: str) -> None:
    lay_dataset(given)
    (given / "dataset.json").unlink()
    (given / "table.csv").write_text(
        f"case,image,label\n{name},imagesTr/a_0000.nii.gz,labelsTr/a.nii.gz\n"
        "other,imagesTr/b_0000.nii.gz,labelsTr/b.nii.gz\n"
    )
    ending = do("dataset", str(given / "table.csv"))
    assert ending.end == "taken", ending.says


# ------------------------------------------------------------------------------------------------------------ folders


def test_links_in_circles_end(do: Do, given: Path) -> None:
    lay_dataset(given)
    for folder in (given, given / "imagesTr", given / "labelsTr"):
        (folder / "circle").symlink_to(folder, target_is_directory=True)
        (folder / "self.nii.gz").symlink_to(folder / "self.nii.gz")
    assert "a link that leads nowhere" in do("dataset", str(given / "dataset.json")).says
    for folder in (given, given / "imagesTr", given / "labelsTr"):
        (folder / "self.nii.gz").unlink()
    assert do("dataset", str(given / "dataset.json")).end == "taken"
    alone = given / "imagesTr" / "series"
    alone.mkdir()
    (alone / "again").symlink_to(alone, target_is_directory=True)
    assert do("dataset", str(given / "dataset.json")).seconds < 5


def test_a_pipe_among_the_images_is_no_image(do: Do, given: Path) -> None:
    lay_dataset(given)
    os.mkfifo(given / "imagesTr" / "d_0000.nii.gz")
    assert "or a pipe" in do("dataset", str(given / "dataset.json")).says


# -------------------------------------------------------------------------------------------------------- command line


def spoil(given: Path) -> dict[str, list[str]]:
    lay_dataset(given)
    (given / "bad.json").write_text("[" * 100_000)
    (given / "huge.nii").write_bytes(nifti((30000, 30000, 30000)))
    (given / "run").mkdir()
    (given / "run" / "plan.json").write_bytes(b"\xff\xfe\x00")
    (given / "run" / "run.json").write_bytes(b'{"a": 1, "a": 2}')
    spoiled = given / "spoiled"
    lay_dataset(spoiled)
    (spoiled / "dataset.json").write_text('{"labels": {"a": NaN}, "channel_names": {"0": "x"}}')
    return {
        "check": ["check", str(spoiled)],
        "plan": ["plan", "--fingerprint", str(given / "bad.json")],
        "like": ["plan", str(given), "--like", str(given / "bad.json")],
        "predict": ["predict", str(given / "run"), str(given / "huge.nii"), str(given / "out")],
        "evaluate": ["evaluate", str(given / "labelsTr"), str(given / "huge.nii")],
        "train": ["train", str(given / "run"), "../../x", "0"],
    }


@pytest.mark.parametrize("verb", ["check", "plan", "like", "predict", "evaluate", "train"])
def test_commands_end_with_code_2(do: Do, given: Path, verb: str, strays: Callable[[], set[str]]) -> None:
    command = spoil(given)[verb]
    before = strays()
    ending = do("command", command)  # any code but 0 and 2 is a fault, and so is a second line
    assert ending.end == "refused", ending
    assert strays() == before


# ------------------------------------------------------------------------------------------------------------- weights


class Trap:
    """What runs when it is unpickled."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.place),))


@pytest.mark.parametrize("job", ["weights", "foreign"])
@pytest.mark.parametrize("kind", ["pickle", "checkpoint"])
def test_a_pickle_in_place_of_weights_does_not_run(model_worker: Worker, given: Path, job: str, kind: str) -> None:
    import torch

    path = given / ("weights_last.safetensors" if job == "weights" else "checkpoint_final.pth")
    if kind == "pickle":
        path.write_bytes(pickle.dumps({"network_weights": Trap(given / "trapped")}))
    else:
        torch.save({"network_weights": Trap(given / "trapped")}, path)
    ending = model_worker.do(job, str(path))
    assert not ending.complaint, ending.complaint
    assert ending.end == "refused"
    assert not (given / "trapped").exists()


@pytest.mark.parametrize("about", ["[1]", "5", '"a"', "{", "[" * 5000, '{"a": 1}', '{"a": "1", "a": "2"}'])
def test_text_beside_weights_that_is_none(model_worker: Worker, given: Path, about: str) -> None:
    head = json.dumps({"__metadata__": {"autoseg": about}}).encode()
    (given / "w.safetensors").write_bytes(len(head).to_bytes(8, "little") + head)
    ending = model_worker.do("weights", str(given / "w.safetensors"))
    assert not ending.complaint, ending.complaint
    assert ending.end == "refused"


@pytest.mark.parametrize("length", [0, 7, 8, 100, 2**40, 2**63, 2**64 - 1])
def test_weights_that_claim_a_long_header(model_worker: Worker, given: Path, length: int) -> None:
    (given / "w.safetensors").write_bytes(length.to_bytes(8, "little") + weights_seed()[8:])
    ending = model_worker.do("weights", str(given / "w.safetensors"))
    assert not ending.complaint, ending.complaint
    assert ending.end == "refused"


# ------------------------------------------------------------------------------------------------------------- records

NUMBERS = st.integers() | st.floats() | st.integers(min_value=-(10**40), max_value=10**40)
LEAVES = st.none() | st.booleans() | NUMBERS | st.text(st.characters(exclude_categories=()), max_size=20)
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
)
QUICK = settings(max_examples=300, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))


@QUICK
@drawn(VALUES)
def test_any_value_becomes_a_record_or_a_record_error(value: Any) -> None:
    for kind in (Splits, dict[str, float], tuple[int, ...] | None, bool):
        try:
            found = records.from_json(kind, value)  # type: ignore[type-var]
        except records.RecordError as fault:
            says = str(fault)
        else:
            says = ""
            assert records.from_json(kind, json.loads(records.dumps(found))) == found  # type: ignore[type-var]
        assert "\n" not in says
        assert len(says) < 500


@QUICK
@drawn(VALUES)
def test_what_is_parsed_is_what_json_says(value: Any) -> None:
    text = json.dumps(value)
    try:
        found = records.parse(text)
    except records.RecordError:
        assert "\\u0000" in text or "\\ud" in text
    else:
        assert json.dumps(found) == text
        records.digest(found)


@QUICK
@drawn(st.text(max_size=60) | st.text('{}[]",:0123456789.eE-+NatIinfy \n', max_size=60))
def test_any_text_is_parsed_or_refused(text: str) -> None:
    says = ""
    try:
        records.parse(text)
    except records.RecordError as fault:
        says = str(fault)
    assert "\n" not in says


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"a": 1, "b": {"c": 1, "c": 2}}', 'has "c" twice in one object'),
        ("[" * 101 + "]" * 101, "nested deeper than 100 levels"),
        ("[" * 10**6, "nested deeper than 100 levels"),
        ('{"a":' * 10**5, "nested deeper than 100 levels"),
        ("9" * 5000, "a number of thousands of digits"),
        ('"\\ud800"', "letters that are none"),
        ('{"\\u0000": 1}', "letters that are none"),
        ("{", "is not JSON: .* in line 1, column 2"),
    ],
    ids=["double", "101 levels", "10⁶ lists", "10⁵ objects", "digits", "surrogate", "zero", "no end"],
)
def test_parsing_refuses(text: str, says: str) -> None:
    with pytest.raises(records.RecordError, match=says):
        records.parse(text)


def test_parsing_takes_a_hundred_levels() -> None:
    assert records.parse("[" * 100 + "]" * 100)


@pytest.mark.parametrize("value", [2**63, -(2**63), 10**400])
@pytest.mark.parametrize("kind", [int, float])
def test_numbers_beyond_64_bits_are_no_numbers_of_a_record(value: int, kind: type) -> None:
    with pytest.raises(records.RecordError, match=r"\$ is .* expected a number of at most 64 bits"):
        records.from_json(kind, value)
