"""From a dataset folder to preprocessed cases: is that faster here than in nnU-Net, and are plan and images the same?

    python benchmarks/nnunet_preprocessing.py DATASET --setup
    python benchmarks/nnunet_preprocessing.py DATASET [--rounds 5] [--all-rounds 5] [--cases 0]

DATASET is a folder as nnU-Net v2 wants it (``imagesTr``, ``labelsTr``, ``dataset.json``). Everything from the start of
the command to its end: check, fingerprint, plan, preprocess. The ways:

* ``nnunet``: ``nnUNetv2_plan_and_preprocess --verify_dataset_integrity`` of v2.8.1, as many processes as cores.
* ``autoseg``: ``autoseg run --until preprocess``.

Both start with an empty folder every time and do the same configurations: first ``3d_fullres`` alone, then all that the
plan has. They take turns (A B A B …); the files are read once before, so that neither pays for a cold disk. Medians
with the order statistics that hold them with at least 93 % confidence; ratios are of rounds of the same turn.

The guards: spacing, patch, batch, strides, kernels and features of the plans are equal; preprocessed images differ by
at most 1e-5 of their range, and labels agree in at least 99.9 % of the voxels, in ten cases of each configuration.
"""

import argparse
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import results
from processes import autoseg_command, run_once
from results import Guard, Judged, Question
from turns import Row, take_turns

from autoseg.run_folder import RunFolder
from planners.plan import Plan

WAYS = ("nnunet", "autoseg")
NAME = "Dataset001_Benchmark"
PLAIN = ("3d_fullres",)
STORED = ("2d", "3d_fullres", "3d_lowres")  # what nnU-Net preprocesses unasked; a cascade reads the full resolution
SAME = ("spacing_mm", "patch_size", "batch_size", "normalization", "architecture")
COMPARED = 10  # cases whose arrays are compared
RANGE, AGREE = 1e-5, 0.999


def lay_out(source: Path, folder: Path, count: int) -> list[str]:
    """Link a dataset, or its first cases, into a folder as nnU-Net names it; give the cases."""
    dataset = json.loads((source / "dataset.json").read_text())
    ending = dataset["file_ending"]
    cases = sorted(file.name.removesuffix(ending) for file in (source / "labelsTr").glob(f"[!.]*{ending}"))
    cases = cases[:count] if count else cases
    for place, pattern in (("imagesTr", "{}_????" + ending), ("labelsTr", "{}" + ending)):
        (folder / place).mkdir(parents=True)
        for file in [file for case in cases for file in (source / place).glob(pattern.format(case))]:
            (folder / place / file.name).symlink_to(file.resolve())
            file.read_bytes()  # into the system's cache
    (folder / "dataset.json").write_text(json.dumps({**dataset, "numTraining": len(cases)}))
    return cases


def nnunet(folder: Path, work: Path, configurations: Sequence[str], venv: Path) -> Row:
    count = str(len(os.sched_getaffinity(0)))
    command = [str(venv / "bin" / "nnUNetv2_plan_and_preprocess"), "-d", "1", "--verify_dataset_integrity", "--no_pbar"]
    command += ["-npfp", count, "-np", count, "-c", *configurations]
    places = {"raw": folder, "preprocessed": work / "preprocessed", "results": work / "results"}
    for place in places.values():
        place.mkdir(parents=True, exist_ok=True)
    environment = {f"nnUNet_{name}": str(place) for name, place in places.items()} | {"nnUNet_def_n_proc": count}
    return run_once(command, work / "log", environment)


def autoseg(folder: Path, work: Path, configurations: Sequence[str]) -> Row:
    words = ["run", str(folder / NAME), "--out", str(work / "run"), "--until", "preprocess", "--device", "cpu"]
    return run_once(autoseg_command(*words, "--configurations", ",".join(configurations)), work / "log")


def compare(configurations: Sequence[str], rounds: int, raw: Path, options: argparse.Namespace) -> Question:
    work = {way: raw.parent / way for way in WAYS}

    def run(way: str, _: int) -> Row:
        shutil.rmtree(work[way], ignore_errors=True)
        work[way].mkdir()
        if way == "nnunet":
            return nnunet(raw, work[way], configurations, options.venv)
        return autoseg(raw, work[way], configurations)

    rows = take_turns({way: partial(run, way) for way in WAYS}, rounds, warm=False)
    title = "all configurations" if len(configurations) > 1 else configurations[0]
    judged = [
        Judged(title=f"preprocess, {title}", figure="wall", against="nnunet", must=5.0, aim=15.0),
        Judged(title=f"preprocess, {title}", figure="memory", against="nnunet"),
    ]
    count = len(list((raw / NAME / "labelsTr").iterdir()))
    return results.make_question(
        f"check, fingerprint, plan, preprocess: {count} cases, {', '.join(configurations)}",
        rows,
        judged,
        [guard for name in configurations for guard in guards(name, work["nnunet"], work["autoseg"] / "run")],
    )


def guards(configuration: str, theirs: Path, ours: Path) -> Iterator[Guard]:
    """Compare the plans and some cases of one configuration."""
    stored = theirs / "preprocessed" / NAME
    yield same_plan(configuration, stored, ours)
    folder = stored / f"nnUNetPlans_{configuration}"
    cases = sorted(file.name.removesuffix(".pkl") for file in folder.glob("*.pkl"))
    offs, agrees = [], []
    for case in cases[:: max(1, len(cases) // COMPARED)]:
        off, agree = difference(folder, ours, configuration, case)
        offs.append(off)
        agrees.append(agree)
    what = f"{configuration}: images off by at most 1e-5 of the range, labels agree in 99.9 %, {len(offs)} cases"
    holds = max(offs) <= RANGE and min(agrees) >= AGREE
    yield Guard(what=what, found=f"{max(offs):.1e}, {min(agrees):.4%}", holds=holds)


def same_plan(configuration: str, stored: Path, ours: Path) -> Guard:
    from autoseg.interop.nnunet_plan import read_plan

    plans, dataset = (json.loads((stored / name).read_text()) for name in ("nnUNetPlans.json", "dataset.json"))
    theirs = read_plan(plans, dataset, configuration, stored).configuration(configuration)
    own = RunFolder(ours).read(Plan, RunFolder(ours).plan_file).configuration(configuration)
    unlike = [
        f"{name}: {getattr(theirs, name)} there, {getattr(own, name)} here"
        for name in SAME
        if getattr(theirs, name) != getattr(own, name)
    ]
    what = f"{configuration}: the plans have equal {', '.join(SAME)}"
    return Guard(what=what, found="; ".join(unlike) or "equal", holds=not unlike)


def difference(folder: Path, ours: Path, configuration: str, case: str) -> tuple[float, float]:
    """Give by how much of the range the images of one case differ, and the part of the label voxels that agree."""
    import blosc2

    from autoseg.preprocessing.populate import store_name

    theirs, labels = (blosc2.open(str(folder / f"{case}{end}.b2nd"), mode="r")[...] for end in ("", "_seg"))
    store = ours / "store" / store_name(RunFolder(ours).read(Plan, RunFolder(ours).plan_file), configuration)
    image, own = np.load(store / f"{case}.image.npy"), np.load(store / f"{case}.labels.npy")
    if image.shape != theirs.shape:
        return float("inf"), 0.0
    return float(np.abs(image - theirs).max() / np.ptp(theirs)), float((own[:1] == labels).mean())


def ask(options: argparse.Namespace) -> Iterator[Question]:
    with TemporaryDirectory() as name:
        raw = Path(name) / "raw"
        lay_out(options.dataset, raw / NAME, options.cases)
        yield compare(PLAIN, options.rounds, raw, options)
        if options.all_rounds:
            names = tuple(json.loads(next(Path(name).rglob("nnUNetPlans.json")).read_text())["configurations"])
            yield compare([item for item in names if item in STORED], options.all_rounds, raw, options)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    results.add_options(parser)
    parser.add_argument("--cases", type=int, default=0, help="the first so many; 0: all (%(default)s)")
    parser.add_argument("--all-rounds", type=int, default=5, help="of all configurations; 0: not those (%(default)s)")
    options = parser.parse_args()
    results.prepare_environment(options)
    results.run("nnunet_preprocessing", options, lambda: ask(options))


if __name__ == "__main__":
    main()
