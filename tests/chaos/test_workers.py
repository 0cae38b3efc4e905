"""A worker that dies in preprocessing, loading or export: its case is named, the others are done, the job goes on."""

from collections.abc import Callable
from pathlib import Path

from chaos_driver import broken, final_state, finish, leftovers, like, run_command
from chaos_table import Row

ROW = Row(
    key="2",
    fault="a worker dies: out of memory, or an exception in native code",
    injected="preprocessing of two cases runs out of memory beside others, and not all threads can be started; then "
    "the thread that loads batches fails; then the one that writes predictions; then nothing",
    promise="preprocessing goes on with fewer workers; else the cases are named in one message, all else is done, and "
    "the same command goes on to the same end",
)

PREPROCESSING = """
import threading
from autoseg.preprocessing import populate
tried, real, start = set(), populate.preprocess_case, threading.Thread.start
def fails_once(*given, **named):
    place = threading.current_thread().name
    if place.startswith("case") and len(tried) < 2:
        tried.add(len(tried))
        raise MemoryError("no room for this case beside the others")
    return real(*given, **named)
populate.preprocess_case = fails_once
from autoseg.data import parallel
parallel.default_threads = lambda: 3
alive = []
def limited(thread):
    if getattr(thread, "_target", None).__name__ == "wait":
        alive.append(thread)
        if len(alive) % 3 == 0:
            raise RuntimeError("can't start new thread")
    start(thread)
threading.Thread.start = limited
"""
LOADING = """
from autoseg.training import sampling
batch = sampling.BatchSource.batch
def fails(source, epoch, step, device):
    if (epoch, step, source.augment) == (1, 0, True):
        raise RuntimeError("a fault in native code")
    return batch(source, epoch, step, device)
sampling.BatchSource.batch = fails
"""
EXPORT = """
from autoseg.inference import folder
write = folder.write_segmentation
def fails(path, *given, **named):
    if "new_01" in path.name:
        raise MemoryError("no room to write this image")
    return write(path, *given, **named)
folder.write_segmentation = fails
"""


def test_workers_that_die(tiny_dataset: Path, reference: Path, tmp_path: Path, record: Callable[..., None]) -> None:
    run, said = tmp_path / "run", tmp_path / "said"
    like(reference, run)
    command = run_command(tiny_dataset, run)
    code, loading = finish(command, said, before=PREPROCESSING + LOADING)
    preprocessed = "2 of 3 workers start" in loading and "memory did not suffice for case_" in loading
    named = code == 1 and "a fault in native code" in loading and "batch of case_" in loading
    code, exporting = finish(command, said, before=EXPORT)
    written = code == 2 and "case new_01: " in exporting and (run / "predictions" / "new_02.nii.gz").exists()
    code, end = finish(command, said)
    kept = [preprocessed and "[4/7]" in loading, named, written, code == 0]
    wanted, found = final_state(reference), final_state(run)
    faults = [name for name in {**wanted, **found} if wanted.get(name) != found.get(name)]
    faults += [*broken(run), *leftovers(run)]
    note = "" if all(kept) else f"{loading[-500:]} | {exporting[-300:]} | {end[-200:]}"
    record(ROW, trials=len(kept), survived=sum(kept), lost=len(faults), note="; ".join([*faults, note]).strip("; "))
