"""Several processes on one folder: folds as separate jobs, a second run, two predictions into one folder."""

import json
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from chaos_driver import Started, broken, final_state, finish, leftovers, like, run_command, start
from chaos_table import Row

FOLDS = Row(
    key="7a",
    fault="all folds at once on a cold cache",
    injected="one `autoseg run --folds K` per fold, started together on an empty run folder; then the choice from all",
    promise="one store is built once while the others wait and say for whom; every fold ends as it does alone; the "
    "last process chooses from all",
)
SECOND = Row(
    key="7b",
    fault="a second run on the same folds",
    injected="the same command started while the first works; again with `--wait`; again after `kill -9` of the first",
    promise="it says at once who works there (host, process, since when, command) and ends with exit code 2; with "
    "`--wait` it goes on afterwards; a killed holder stands in nobody's way",
)
OUTPUT = Row(
    key="7c",
    fault="two predictions into one folder",
    injected="`autoseg predict` twice at once with one output folder",
    promise="the second waits, says for whom, and finds the images done; each image is segmented once",
)
LEFT = Row(
    key="7d",
    fault="unfinished files of a killed process",
    injected="unfinished files of every kind in the run folder, one of them being written by a living process",
    promise="the next start deletes those that nobody writes, and nothing else",
)


def events(run: Path, kind: str) -> list[dict[str, object]]:
    rows = [json.loads(line) for line in (run / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    return [row for row in rows if row.get("event") == kind]


def folds_together(dataset: Path, reference: Path, folder: Path, folds: range) -> tuple[int, int, str]:
    """Start one run per fold at once; give how many did as promised, what differs, and what was seen."""
    run = folder / "run"
    like(reference, run)
    jobs = [start(run_command(dataset, run, "--folds", str(fold)), folder / "said") for fold in folds]
    good = sum(job.wait() == 0 for job in jobs)
    said = [job.text() for job in jobs]
    choosing = sum("[5/7]" in text for text in said)
    choice = json.loads((run / "choice.json").read_text())
    arrays = {path: path.stat().st_mtime_ns for path in (run / "store" / "3d_fullres").glob("*.npy")}
    code, again = finish(run_command(dataset, run, "--folds", ",".join(map(str, folds))), folder / "said")
    rebuilt = [path for path, changed in arrays.items() if path.stat().st_mtime_ns != changed]
    wanted, found = final_state(reference), final_state(run)
    own = [name for name in wanted if "fold_0" in name or name in ("plan.json", "splits.json", "fingerprint.json")]
    different = [name for name in own if found.get(name) != wanted[name]]
    faults = [*different, *map(str, rebuilt), *broken(run), *leftovers(run)]
    if choosing != 1 or choice["num_cases"] != len(folds) or code:
        faults.append(f"{choosing} chose, from {choice['num_cases']} cases; then: {again[-300:]}")
    waited = sum("waiting for process" in text for text in said)
    note = f"{waited} of {len(folds)} waited for another; one chose, from {choice['num_cases']} cases of all folds"
    return good, len(faults), "; ".join([note, *faults[:3]])


def test_two_folds_together(tiny_dataset: Path, reference: Path, tmp_path: Path, record: Callable[..., None]) -> None:
    good, lost, note = folds_together(tiny_dataset, reference, tmp_path, range(2))
    record(FOLDS, trials=2, survived=good, lost=lost, note=note)


@pytest.mark.slow
def test_five_folds_together(tiny_dataset: Path, reference: Path, tmp_path: Path, record: Callable[..., None]) -> None:
    good, lost, note = folds_together(tiny_dataset, reference, tmp_path, range(5))
    record(FOLDS, trials=5, survived=good, lost=lost, note=note)


def stopped(started: Started, words: str) -> Started:
    """Let a process go on until it says some words, and hold it there."""
    assert started.wait_for(words), started.text()
    started.process.send_signal(signal.SIGSTOP)
    return started


def test_a_second_run_is_told_and_may_wait(
    tiny_dataset: Path, reference: Path, tmp_path: Path, record: Callable[..., None]
) -> None:
    run, said = tmp_path / "run", tmp_path / "said"
    like(reference, run)
    command = run_command(tiny_dataset, run, "--until", "plan")
    first = stopped(start(command, said), "[1/7]")
    code, text = finish(command, said)
    refused = code == 2 and f"in use by process {first.process.pid} on " in text and "--out" in text
    waiting = start([*command, "--wait"], said)
    told = waiting.wait_for(f"waiting for process {first.process.pid}")
    first.stop(signal.SIGKILL)
    went_on = waiting.wait() == 0
    faults = broken(run)
    kept = [refused, told and went_on, went_on]
    record(SECOND, trials=3, survived=sum(kept), lost=len(faults), note="; ".join(faults))


def test_two_predictions_into_one_folder(
    tiny_dataset: Path, reference: Path, tmp_path: Path, record: Callable[..., None]
) -> None:
    out, said = tmp_path / "Ergebnis", tmp_path / "said"
    command = ["predict", str(reference), str(tiny_dataset / "imagesTs"), str(out), "--device", "cpu"]
    slow = "import time, autoseg.inference.folder as f; w = f.write_segmentation\n"
    slow += "f.write_segmentation = lambda *a, **k: (time.sleep(3), w(*a, **k))[1]"
    first = start(command, said, before=slow)
    until = time.monotonic() + 300
    while not (out / "predictions.json").exists() and time.monotonic() < until:
        time.sleep(0.02)
    first.process.send_signal(signal.SIGSTOP)
    second = start(command, said)
    waiting = second.wait_for(f"waiting for process {first.process.pid}")
    first.process.send_signal(signal.SIGCONT)
    codes = first.wait(), second.wait()
    told = waiting and "2 of 2 images are segmented already" in second.text()
    wanted = {path.name: path.read_bytes() for path in (reference / "predictions").glob("*.nii.gz")}
    found = {path.name: path.read_bytes() for path in out.glob("*.nii.gz")}
    lost = len({name for name in {**wanted, **found} if wanted.get(name) != found.get(name)}) + (out / ".lock").exists()
    note = "" if told else second.text()[-300:]
    record(OUTPUT, trials=2, survived=int(codes[0] == 0) + int(codes[1] == 0 and told), lost=lost, note=note)


def test_leftovers_of_kills_go(tiny_dataset: Path, tmp_path: Path, record: Callable[..., None]) -> None:
    from autoseg.locks import mark_in_use

    run = tmp_path / "run"
    gone = [
        ".plan.json.a1b2c3d4.tmp",
        "store/3d_fullres/.case_01.image.npy.aaaaaaaa.tmp",
        "predictions/.new_01.bbbbbbbb.nii.gz",
    ]
    stay = [".notes", "folds/mine.txt", ".used.json.cccccccc.tmp"]
    for name in [*gone, *stay]:
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).touch()
    with (run / stay[-1]).open("rb") as file:
        mark_in_use(file.fileno())
        time.sleep(0.2)
        code, said = finish(run_command(tiny_dataset, run, "--until", "check"), tmp_path / "said")
        right = [not (run / name).exists() for name in gone] + [(run / name).exists() for name in stay]
    record(LEFT, trials=len(right), survived=sum(right), lost=code, note="" if code == 0 else said[-300:])
