"""Every challenge of the table: its folder is recognised and becomes a sound dataset, which is scored and packed."""

import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autoseg.challenges import CHALLENGES, find_challenge, pack, prepare, score
from autoseg.challenges.packing import values_of
from autoseg.data.check import check_dataset
from autoseg.data.dataset import DatasetSource, open_dataset
from autoseg.data.io import open_image, write_segmentation
from autoseg.errors import DatasetError, OptionError
from autoseg.evaluation.protocols import PROTOCOLS

NAMES = list(CHALLENGES)
Make = Callable[[str, Path], Any]


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_record_is_complete(name: str) -> None:
    challenge = CHALLENGES[name]
    assert challenge.name == name
    assert challenge.source.startswith("https://") or challenge.source.startswith("http://")
    assert challenge.licence
    assert challenge.expects
    assert challenge.protocol in PROTOCOLS
    assert "background" in challenge.labels


def test_prepared_dataset_is_sound(name: str, make_example: Make, tmp_path: Path) -> None:
    example, challenge = make_example(name, tmp_path / "raw"), CHALLENGES[name]
    before = {path: path.stat().st_mtime_ns for path in example.root.rglob("*")}
    out = prepare(name, tmp_path / "raw", tmp_path / "out")
    dataset = open_dataset(DatasetSource(dataset=out))
    result = check_dataset(dataset, threads=1)
    assert not result.stops, result.text()
    assert [case.id for case in dataset.cases] == sorted(example.train)
    assert [case.id for case in dataset.test_cases] == sorted(example.tests)
    assert dataset.channels == challenge.channels
    assert dataset.labels is not None
    assert {*dataset.labels.values} == {*challenge.values}
    assert before == {path: path.stat().st_mtime_ns for path in example.root.rglob("*")}


def test_preparing_again_changes_nothing(name: str, make_example: Make, tmp_path: Path) -> None:
    example, out = make_example(name, tmp_path / "raw"), tmp_path / "out"
    prepare(name, example.root, out)

    def state() -> dict[str, tuple[int, bytes]]:
        files = [path for path in out.rglob("*") if path.is_file() and path.name != "challenge.json"]
        return {
            str(path): (path.lstat().st_mtime_ns if "json" not in path.name else 0, path.read_bytes()) for path in files
        }

    before = state()
    prepare(name, example.root, out)
    assert state() == before


def test_what_the_user_wrote_is_kept(make_example: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    example, out = make_example("amos22", tmp_path / "raw"), tmp_path / "out"
    prepare("amos22", example.root, out)
    (out / "splits_final.json").write_text("[]")
    prepare("amos22", example.root, out)
    assert (out / "splits_final.json").read_text() == "[]"
    assert "kept as it is" in capsys.readouterr().err
    prepare("amos22", example.root, out)
    assert (out / "splits_final.json").read_text() == "[]"


def test_perfect_predictions_score_one(name: str, make_example: Make, tmp_path: Path) -> None:
    example = make_example(name, tmp_path / "raw")
    out = prepare(name, example.root, tmp_path / "out")
    for labels in (out, out / "labelsTr", example.root):
        comparison = score(name, out / "labelsTr", labels)
        assert comparison.scores.mean_dice == 1
        assert {case.case for case in comparison.scores.cases} == set(example.train)


def test_worse_predictions_score_less(make_example: Make, tmp_path: Path) -> None:
    example = make_example("lits", tmp_path / "raw")
    out = prepare("lits", example.root, tmp_path / "out")
    predictions = tmp_path / "predictions"
    for path in sorted((out / "labelsTr").iterdir()):
        opened = open_image([path])
        write_segmentation(predictions / path.name, np.roll(opened.read()[0], 1, axis=0), opened.geometry)
    (predictions / "volume-10.nii").unlink()
    comparison = score("lits", predictions, out)
    assert comparison.scores.mean_dice is not None
    assert comparison.scores.mean_dice < 1
    assert comparison.without_prediction == ("volume-10",)


def test_packed_submission_holds_the_predictions(name: str, make_example: Make, tmp_path: Path) -> None:
    example, challenge = make_example(name, tmp_path / "raw"), CHALLENGES[name]
    if not example.archive:
        pytest.skip(f"a submission to {name} is no archive of label maps; it has a test of its own")
    prepared = prepare(name, example.root, tmp_path / "out")
    predictions = example.write_predictions(tmp_path / "predictions")
    archive = pack(name, predictions, tmp_path / "a.zip", example.root)
    for number, images in enumerate((prepared, prepared / "imagesTs")):
        again = pack(name, predictions, tmp_path / f"again{number}" / "b.zip", images)
        assert again.read_bytes() == archive.read_bytes()
    with zipfile.ZipFile(archive) as file:
        file.extractall(tmp_path / "unpacked")
        names = {entry for entry in file.namelist() if not entry.endswith(".raw")}
    assert names == set(example.archive)
    values = {} if challenge.submission is None else challenge.submission.values or {}
    for path, case in example.archive.items():
        file_unpacked = tmp_path / "unpacked" / path
        if path.endswith(".gz"):
            assert file_unpacked.read_bytes()[4:8] == bytes(4), "compressed with the time of day"
        unpacked = open_image([file_unpacked])
        expected = example.tests[case]
        for ours, theirs in values.items():
            expected = np.where(example.tests[case] == ours, theirs, expected)
        assert unpacked.dtype == np.uint8
        assert unpacked.geometry.displacement(example.geometry, expected.shape) < 1e-3
        np.testing.assert_array_equal(unpacked.read()[0], expected)


def test_incomplete_submission_is_refused(name: str, make_example: Make, tmp_path: Path) -> None:
    example = make_example(name, tmp_path / "raw")
    predictions = example.write_predictions(tmp_path / "predictions")
    missing = sorted(example.tests)[-1]
    for path in predictions.glob(f"{missing}.*"):
        path.unlink()
    with pytest.raises(DatasetError, match=missing):
        pack(name, predictions, tmp_path / "a.zip", example.root)
    assert not (tmp_path / "a.zip").exists()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_wrong_predictions_are_named(name: str, make_example: Make, tmp_path: Path) -> None:
    example = make_example(name, tmp_path / "raw")
    if not example.archive:
        pytest.skip(f"a submission to {name} is no archive of label maps; it has a test of its own")
    predictions = example.write_predictions(tmp_path / "predictions")
    first, second = sorted(example.tests)[:2]
    write_segmentation(predictions / f"{first}.nii.gz", example.tests[first][:, :-1], example.geometry)
    strange = np.where(example.tests[second] == 0, 77, example.tests[second])
    write_segmentation(predictions / f"{second}.nii.gz", strange, example.geometry)
    with pytest.raises(DatasetError) as raised:
        pack(name, predictions, tmp_path / "a.zip", example.root)
    message = str(raised.value)
    assert f"case {first}: " in message
    assert "shape" in message
    assert f"case {second}: " in message
    assert "77" in message
    assert not (tmp_path / "a.zip").exists()


def test_half_a_download_names_the_case(name: str, make_example: Make, tmp_path: Path) -> None:
    example = make_example(name, tmp_path / "raw")
    path, case = example.a_file
    path.unlink()
    with pytest.raises(DatasetError) as raised:
        prepare(name, example.root, tmp_path / "out")
    assert case in str(raised.value)
    assert not (tmp_path / "out").exists()


def test_other_folders_are_not_recognised(name: str, all_examples: dict[str, Path], tmp_path: Path) -> None:
    challenge = CHALLENGES[name]
    assert challenge.recognise(all_examples[name])
    for other, root in all_examples.items():
        if CHALLENGES[other].expects != challenge.expects:
            assert not challenge.recognise(root), f"{name} takes the folder of {other}"
    (tmp_path / "empty").mkdir()
    assert not challenge.recognise(tmp_path / "empty")
    with pytest.raises(DatasetError, match="Expected"):
        prepare(name, tmp_path / "empty", tmp_path / "out")


def test_another_challenges_folder_is_named(make_example: Make, tmp_path: Path) -> None:
    example = make_example("msd04", tmp_path)
    with pytest.raises(DatasetError, match="It looks like msd04"):
        prepare("acdc", example.root, tmp_path / "out")
    with pytest.raises(OptionError, match="did you mean 'acdc'"):
        find_challenge("acdcc")


def test_nothing_is_written_over(make_example: Make, tmp_path: Path) -> None:
    example = make_example("msd04", tmp_path / "raw")
    other = tmp_path / "mine"
    other.mkdir()
    (other / "notes.txt").write_text("mine")
    with pytest.raises(DatasetError, match="holds something else"):
        prepare("msd04", example.root, other)
    with pytest.raises(DatasetError, match="official folder"):
        prepare("msd04", example.root, example.root / "out")
    out = prepare("msd04", example.root, tmp_path / "out")
    with pytest.raises(DatasetError, match="challenge msd04"):
        prepare("acdc", make_example("acdc", tmp_path / "raw2").root, out)


def test_a_stopped_call_goes_on(make_example: Make, tmp_path: Path) -> None:
    example, out = make_example("msd04", tmp_path / "raw"), tmp_path / "out"
    prepare("msd04", example.root, out)
    for file in ("dataset.json", "challenge.json"):
        (out / file).unlink()
    shutil.rmtree(out / "imagesTs")
    prepare("msd04", example.root, out)
    assert len(list((out / "imagesTs").iterdir())) == 2
    assert (out / "dataset.json").is_file()


def test_links_of_cases_that_are_gone_are_removed(make_example: Make, tmp_path: Path) -> None:
    example = make_example("lits", tmp_path / "raw")
    out = prepare("lits", example.root, tmp_path / "out")
    for kind in ("volume", "segmentation"):
        (example.root / "Training Batch 1" / f"{kind}-10.nii").unlink()
    (out / "imagesTr" / "mine.nii").symlink_to(tmp_path)
    prepare("lits", example.root, out)
    assert sorted(path.name for path in (out / "labelsTr").iterdir()) == ["volume-0.nii", "volume-28.nii"]
    assert (out / "imagesTr" / "mine.nii").is_symlink()


def test_disks_without_links_get_copies(make_example: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError("no links here")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    example = make_example("promise12", tmp_path / "raw")
    for _ in range(2):
        out = prepare("promise12", example.root, tmp_path / "out")
    copy = out / "imagesTr" / "Case00_0000.mhd"
    assert not copy.is_symlink()
    assert not check_dataset(open_dataset(DatasetSource(dataset=out)), threads=1).stops


def test_surplus_predictions_are_left_out(
    make_example: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    example = make_example("msd04", tmp_path / "raw")
    predictions = example.write_predictions(tmp_path / "predictions")
    shutil.copy(predictions / "hippocampus_002.nii.gz", predictions / "other.nii.gz")
    archive = pack("msd04", predictions, tmp_path, example.root)
    assert archive == tmp_path / "msd04.zip"
    assert "other" in capsys.readouterr().err
    with pytest.raises(DatasetError, match=r"\.zip"):
        pack("msd04", predictions, tmp_path / "a.tar", example.root)
    with pytest.raises(DatasetError, match="neither"):
        pack("msd04", predictions, tmp_path, predictions)


def test_all_of_it_runs_without_torch(make_example: Make, tmp_path: Path) -> None:
    example = make_example("msd04", tmp_path / "raw")
    predictions = example.write_predictions(tmp_path / "predictions")
    code = (
        "import sys; from pathlib import Path; from autoseg.challenges import pack, prepare, score\n"
        "heavy = lambda: print(sorted(m for m in ('torch', 'scipy', 'SimpleITK') if m in sys.modules))\n"
        "heavy(); raw, predictions, out = map(Path, sys.argv[1:]); prepare('msd04', raw, out)\n"
        "pack('msd04', predictions, out.parent, out); score('msd04', out / 'labelsTr', out)\n"
        "print('torch' in sys.modules)"
    )
    arguments = [sys.executable, "-c", code, str(example.root), str(predictions), str(tmp_path / "out")]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.split() == ["[]", "False"], done.stderr


def test_values_are_counted_as_they_are_sorted() -> None:
    integers = np.random.default_rng(0).integers(0, 9, size=(3, 5, 7))
    for array in (integers.astype(np.uint8), integers.astype(np.float32), integers - 4, integers * 1000):
        assert values_of(array) == set(np.unique(array).tolist())
    assert any(np.isnan(value) for value in values_of(np.full((1, 2, 2), np.nan)))
