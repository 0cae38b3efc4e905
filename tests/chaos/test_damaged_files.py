"""Files that a disk, a copy or a person damaged: a cache is made again, all else is refused with what to do."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from chaos_driver import run_command
from chaos_limits import copy_run, differing, is_one_message
from chaos_table import Row

from autoseg.cli import main

STORE = Row(
    key="6a",
    fault="a damaged store",
    injected="a bit turned round in image, labels and locations of a stored case; a file cut off; its record cut",
    promise="noticed by checksum before training, the case is named and made again, with the same bytes",
)
WEIGHTS = Row(
    key="6b",
    fault="damaged weights or state",
    injected="a bit turned round, and a file cut off, in weights_last and state.safetensors",
    promise="refused with the file's name and what to do; nothing is predicted or trained with them",
)
RECORDS = Row(
    key="6c",
    fault="damaged records",
    injected="every JSON file of a finished run cut in the middle, emptied, or filled with other bytes",
    promise="what is a cache is made again, to the same results; all else is refused with file and remedy",
)


def flip(path: Path, place: float = 0.7) -> None:
    """Turn one bit of a file round."""
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 0x40
    path.write_bytes(content)


def cut(path: Path) -> None:
    """Leave the first half of a file."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_store(
    reference: Path,
    tiny_dataset: Path,
    tmp_path: Path,
    record: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = copy_run(reference, tmp_path / "run", "folds", "choice.json")
    store = run / "store" / "3d_fullres"
    before = {path.name: path.read_bytes() for path in store.glob("*.npy")}
    for name in ("case_01.image.npy", "case_02.labels.npy", "case_03.locations.npy"):
        flip(store / name)
    cut(store / "case_04.image.npy")
    cut(store / "case_05.json")
    code = main([*run_command(tiny_dataset, run), "--until", "preprocess"])
    said = capsys.readouterr().err
    print(said[-1500:])
    made = sum((store / name).read_bytes() == content for name, content in before.items())
    line = next((line for line in said.splitlines() if "what was kept is damaged" in line), "")
    named = sum(f"case_0{number}" in line for number in range(1, 6))
    survived = named if code == 0 else 0
    record(STORE, trials=5, survived=survived, lost=len(before) - made, note="made again, byte for byte")


@pytest.mark.parametrize("damage", [flip, cut])
def test_weights(
    damage: Callable[[Path], None],
    reference: Path,
    tiny_dataset: Path,
    tmp_path: Path,
    record: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    run, out = copy_run(reference, tmp_path / "run"), tmp_path / "out"
    fold = run / "folds" / "3d_fullres" / "fold_0"
    damage(fold / "weights_last.safetensors")
    code = main(["predict", str(run), str(tiny_dataset / "imagesTs"), str(out), "--device", "cpu"])
    said = capsys.readouterr().err
    print(said)
    good = code == 2 and "weights_last.safetensors" in said and is_one_message(said) and not list(out.glob("*.nii.gz"))
    survived = int(good and ("damaged" in said or "cannot be read" in said))
    damage(fold / "state.safetensors")
    code = main([*run_command(tiny_dataset, run), "--epochs", "3"])
    said = capsys.readouterr().err
    print(said[-800:])
    survived += int(code == 2 and "state.safetensors" in said and "train this fold anew" in said)
    record(WEIGHTS, trials=2, survived=survived, note="weights and state refused")


CACHES = ("check.json", "fingerprint.json", "store/", "predictions/")
"""Records that are made again by themselves."""


def damaged_record(
    run: Path, name: str, content: bytes, dataset: Path, reference: Path, capsys: pytest.CaptureFixture[str]
) -> tuple[bool, int]:
    """Put content into a record and run the same command; tell whether the promise was kept, and what was lost."""
    path = run / name
    kept = path.read_bytes()
    path.write_bytes(content)
    code = main(run_command(dataset, run))
    said = capsys.readouterr().err
    good = is_one_message(said) and (code == 0 or (code == 2 and path.name in said))
    if not good or (code != 0 and name.startswith(CACHES)):
        sys.__stdout__.write(f"{name} {code} {content[:20]!r} {said[-900:]}\n")
        good = False
    lost = 0
    if code == 0:
        different = differing(run, reference)
        lost = len(different)
        if different:
            sys.__stdout__.write(f"{name} {content[:20]!r}: other results in {different} {said[-900:]}\n")
    else:
        path.write_bytes(kept)
    return good, lost


def records_of(run: Path) -> list[str]:
    found = [path for path in run.rglob("*.json*") if not path.name.startswith(".") and path.name != "log.jsonl"]
    return sorted(str(path.relative_to(run)) for path in found)


def test_some_records(
    reference: Path, tiny_dataset: Path, tmp_path: Path, record: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    """The plan, a fold's curve and its record, in this process; the long form does all, in every way."""
    survived = 0
    names = ("plan.json", "folds/3d_fullres/fold_0/progress.jsonl", "folds/3d_fullres/fold_0/fold.json")
    for number, name in enumerate(names):
        run = copy_run(reference, tmp_path / f"run_{number}")
        (run / name).write_bytes((reference / name).read_bytes()[:-40])
        code = main([*run_command(tiny_dataset, run), "--epochs", "3"])
        said = capsys.readouterr().err
        print(said[-600:])
        survived += code == 2 and Path(name).name in said and ("elete" in said or "Correct it" in said)
        shutil.rmtree(run)
    record(RECORDS, trials=len(names), survived=survived, note="plan, curve, fold: refused")


@pytest.mark.slow
def test_every_record(
    reference: Path, tiny_dataset: Path, tmp_path: Path, record: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    run = copy_run(reference, tmp_path / "run")
    names = records_of(reference)
    assert {"run.json", "plan.json", "splits.json", "choice.json"} <= set(names)
    trials = survived = lost = 0
    for name in names:
        whole = (reference / name).read_bytes()
        others = [whole[: len(whole) // 2]] if len(names) > 60 else [whole[: len(whole) // 2], b"", b"\xff\x00[]"]
        for content in others:
            good, missing = damaged_record(run, name, content, tiny_dataset, reference, capsys)
            trials, survived, lost = trials + 1, survived + good, lost + missing
            if missing or not good:
                shutil.rmtree(run)
                copy_run(reference, run)
    assert json.loads((run / "run.json").read_text())
    record(RECORDS, trials=trials, survived=survived, lost=lost, note=f"{len(names)} records, each in up to three ways")
