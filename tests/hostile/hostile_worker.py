"""The process that opens hostile files: one job per line of JSON on its input, one answer per line on its output.

What libraries print goes into a file that is looked at after each job; memory is limited to what the program takes with
everything loaded, and ``ROOM_BYTES`` above that, where the platform knows such a limit.
"""

import contextlib
import functools
import importlib
import io
import json
import os
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOM_BYTES = 2**30
RECORDS = {
    "plan.json": ("planners.plan", "Plan"),
    "choice.json": ("autoseg.evaluation.selection", "Choice"),
    "fingerprint.json": ("planners.fingerprint", "Fingerprint"),
    "run.json": ("autoseg.run_folder", "RunRecord"),
    "splits.json": ("autoseg.data.splits", "Splits"),
    "predictions.json": ("autoseg.inference.folder", "PredictionsRecord"),
}


@functools.cache
def record_type(name: str) -> type:
    module, attribute = RECORDS[name]
    return getattr(importlib.import_module(module), attribute)


def read_record(path: Path) -> None:
    from autoseg.run_folder import records_from
    from planners import records

    found = records_from(record_type(path.name), path)
    records.digest(found)  # what is accepted can be written again
    records.dumps(found)


def open_image(path: Path) -> None:
    from autoseg.data import io

    use(io.open_image([path]), path.parent)


def open_label(path: Path) -> None:
    from autoseg.data import io

    use(io.as_ids(io.open_label(path)), path.parent)


def use(image: Any, folder: Path) -> None:
    """Do with an opened image what the program does: read it, compare its grid, write a segmentation on that grid."""
    import numpy as np

    from autoseg.data import check_geometry, io

    array = image.read()
    assert array.shape == (image.num_channels, *image.shape), f"{array.shape} read, {image.shape} promised"
    assert array.dtype == image.dtype, f"{array.dtype} read, {image.dtype} promised"
    assert min(array.shape) > 0, f"an empty image: {array.shape}"
    geometry = image.geometry
    numbers = (*geometry.spacing_mm, *geometry.origin, *geometry.direction)
    assert np.isfinite(numbers).all(), f"taken with {geometry}"
    assert min(geometry.spacing_mm) > 0, f"taken with {geometry}"
    assert len(check_geometry.orientation(geometry)) == 3
    assert check_geometry.misfit(geometry, geometry, image.shape).voxels < 0.1
    assert geometry.displacement(geometry, image.shape) < 0.1
    if array[0].nbytes < 2**20:
        written = io.write_segmentation(folder / "written.nii.gz", np.zeros(image.shape, np.uint8), geometry)
        written.unlink()


def open_dataset(path: Path) -> None:
    from autoseg.data.cases import DatasetSource
    from autoseg.data.dataset import open_dataset as opened

    opened(DatasetSource(dataset=path.parent if path.name in ("dataset.json", "splits_final.json") else path))


def load_weights(path: Path) -> None:
    from autoseg.networks.checkpoint import load_weights as loaded

    tensors, about = loaded(path)
    assert all(isinstance(text, str) for text in about.values()), about
    for tensor in tensors.values():
        tensor.sum()


def load_foreign(path: Path) -> None:
    from autoseg.interop import nnunet

    nnunet._load(path)


def unpack_bundle(path: Path) -> None:
    from autoseg.inference.bundle import unpack

    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        unpack(path, Path(folder))


def run_command(arguments: list[str]) -> None:
    """Run a command line; what it refuses is raised again as it was printed."""
    from autoseg.cli import main

    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        code = main(arguments)
    if code == 2 and "Traceback" not in said.getvalue():
        raise refusal(said.getvalue().splitlines()[0])  # what lists problems has more lines, on purpose
    assert code == 0, f"exit code {code}: {said.getvalue()}"


def refusal(text: str) -> Exception:
    from autoseg.errors import AutosegError

    return AutosegError(text)


JOBS: dict[str, Callable[[Any], None]] = {
    "record": read_record,
    "image": open_image,
    "label": open_label,
    "dataset": open_dataset,
    "weights": load_weights,
    "foreign": load_foreign,
    "bundle": unpack_bundle,
}


def work(job: str, given: Any) -> dict[str, Any]:
    """Do one job; say how it ended: ``taken``, ``refused`` with a message, or ``fault`` with a traceback."""
    from autoseg.errors import AutosegError
    from planners.records import PlanError, RecordError

    try:
        run_command(given) if job == "command" else JOBS[job](Path(given))
    except (AutosegError, PlanError, RecordError) as fault:
        return {"end": "refused", "kind": type(fault).__name__, "says": str(fault)}
    except BaseException as fault:
        shown = traceback.format_exception(fault, limit=-6)
        return {"end": "fault", "kind": type(fault).__name__, "says": str(fault)[:500], "where": "".join(shown)[-3000:]}
    return {"end": "taken", "kind": "", "says": ""}


def limit_memory() -> None:
    """Limit the address space, after everything that the jobs use is loaded."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        pages = int(Path("/proc/self/statm").read_text().split()[0])
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + ROOM_BYTES, -1))


def warm_up(jobs: list[str]) -> None:
    """Load what the jobs load by themselves when they are done for the first time."""
    import SimpleITK
    from PIL import Image

    from autoseg.data import dataset, io_sitk  # noqa: F401

    io_sitk.simpleitk()
    Image.init()
    SimpleITK.ReadImage  # noqa: B018
    if {"weights", "foreign", "bundle", "record"} & set(jobs):
        import torch

        import autoseg.inference.bundle
        import autoseg.interop.nnunet
        import autoseg.networks.checkpoint

        torch.set_num_threads(1)
        for name in RECORDS:
            record_type(name)
    if "command" in jobs:
        import autoseg.inference.predictor
        import autoseg.training.folds
        import autoseg.verbs  # noqa: F401


def serve(jobs: list[str]) -> None:
    requests, answers = os.fdopen(os.dup(0), encoding="utf-8"), os.fdopen(os.dup(1), "w", encoding="utf-8")
    with tempfile.TemporaryFile() as noise:
        os.dup2(noise.fileno(), 1)
        os.dup2(noise.fileno(), 2)
        warnings.simplefilter("always")
        warm_up(jobs)
        limit_memory()
        for line in requests:
            sys.stdout.flush()
            sys.stderr.flush()
            os.ftruncate(noise.fileno(), 0)
            os.lseek(noise.fileno(), 0, os.SEEK_SET)
            request, start = json.loads(line), time.process_time()
            answer = work(request["job"], request["given"])
            answer["seconds"] = time.process_time() - start
            sys.stdout.flush()
            sys.stderr.flush()
            os.lseek(noise.fileno(), 0, os.SEEK_SET)
            answer["noise"] = noise.read(2000).decode("utf-8", "replace")
            print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    serve(sys.argv[1:])
