"""How much memory does a volume take that is larger than memory?

    python benchmarks/large_volume.py [--size 1024] [--max-ram 6GB] [--step 0.75] [--picture FILE.svg]

A volume of ``--size``³ voxels, uint8, with spheres in noise is written as ``.nii`` into a temporary folder, beside a
model of eight features with untrained weights (what it finds is of no use; what it takes is what a trained one takes).
Then ``predict_folder(..., max_ram=)`` segments it without mirroring in a process of its own, whose resident memory is
sampled with all its children ten times a second. Printed are the peak, the time and the limit; the curve is drawn as a
picture. ``--step`` is the distance of two windows in their edges: time grows with its inverse cube, memory does not.

The command fails where the peak is above the limit, or the segmentation is not of the image's grid.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from process_tree import Tree

from autoseg.data.image import Geometry
from autoseg.data.io import open_image
from autoseg.data.region_writing import RegionWriter
from autoseg.networks import build_network, save_weights
from autoseg.options import parse_bytes
from autoseg.run_folder import RunFolder
from planners.fingerprint import Channel
from planners.labels import LabelClass, Labels
from planners.plan import (
    Architecture,
    Configuration,
    Input,
    MemoryBudget,
    Output,
    Plan,
    Resampling,
    Stage,
    Target,
    Training,
)

FEATURES, STAGES = 8, 3
INTERVAL_S = 0.1
SPHERES_PER_SIDE = 4


def write_volume(path: Path, size: int) -> None:
    """Write spheres in noise, slice by slice: bright and half as bright, all of them inside the volume."""
    random = np.random.default_rng(0)
    axis = np.arange(size, dtype=np.float32)
    cell = size / SPHERES_PER_SIDE
    squares = ((axis % cell) - cell / 2) ** 2
    radius = (0.35 * cell) ** 2
    shade = 60 + 60 * (axis // cell % 2)  # by column of spheres
    texture = random.integers(0, 60, (2, size, size), dtype=np.uint8)
    with RegionWriter(path, ".nii", (size,) * 3, Geometry(spacing_mm=(1.0, 1.0, 1.0)), np.dtype(np.uint8)) as writer:
        for row in range(size):
            inside = squares[row] + squares[:, None] + squares[None] < radius
            plane = np.roll(texture[row % 2], 37 * row, axis=(0, 1)) + (inside * shade).astype(np.uint8) + 1
            writer.put(((row, row + 1), (0, size), (0, size)), plane[None])


def write_model(folder: Path, patch: int) -> None:
    """Write a run folder of one untrained fold."""
    ones, twos, threes = (1,) * 3, (2,) * 3, (3,) * 3
    stages = tuple(
        Stage(features=FEATURES, kernel=threes, stride=twos if index else ones, num_blocks=1) for index in range(STAGES)
    )
    architecture = Architecture(
        family="plain-unet",
        dimensions=3,
        stages=stages,
        num_decoder_blocks=(1,) * (STAGES - 1),
        outputs=(Output(stride=ones, loss_weight=1.0),),
    )
    configuration = Configuration(
        name="3d_fullres",
        inputs=(Input(channels=1),),
        spacing_mm=(1.0, 1.0, 1.0),
        median_shape=(float(patch),) * 3,
        patch_size=(patch,) * 3,
        output_size=(patch,) * 3,
        batch_size=2,
        normalization=("zscore",),
        use_mask_for_norm=(False,),
        resampling=Resampling(),
        target=Target(name="semantic", num_outputs=3),
        architecture=architecture,
        training=Training(),
        estimated_bytes=0,
    )
    plan = Plan(
        dataset="spheres",
        planner="default",
        budget=MemoryBudget(),
        axis_order=(0, 1, 2),
        channels=(Channel(name="made in code"),),
        labels=Labels(classes=tuple(LabelClass(name=str(index), value=index) for index in range(3))),
        configurations=(configuration,),
    )
    run = RunFolder(folder)
    run.write(plan, run.plan_file)
    network = build_network(architecture, 1, 3, seed=0)
    save_weights(run.fold(configuration.name, 0).weights_last, network, {"step": "0"})


def predict(command: list[str]) -> tuple[list[tuple[float, float]], float]:
    """Run a command; give its resident memory over time (s, MB), and its processor seconds."""
    started, curve, cpu = time.monotonic(), [], 0.0
    process = subprocess.Popen(command)
    tree = Tree(process.pid)
    while process.poll() is None:
        memory, cpu = tree.memory(), max(cpu, tree.cpu())
        if memory:
            curve.append((time.monotonic() - started, memory))
        time.sleep(INTERVAL_S)
    if process.returncode:
        raise SystemExit(f"the prediction ended with {process.returncode}")
    return curve, cpu


def work(model: str, image: str, output: str, max_ram: str, step: str) -> None:
    """Predict, in the process that is watched."""
    from autoseg.inference.predictor import predict_folder
    from autoseg.inference.speed import SPEEDS, Speed

    SPEEDS["wide"] = Speed(name="wide", mirror=False, step=float(step), max_folds=None, because="this benchmark")
    predict_folder(model, image, output, max_ram=max_ram, speed="wide", device="cpu")


def draw(curve: list[tuple[float, float]], limit_mb: float, title: str) -> str:
    """Draw memory over time with the limit as a line."""
    width, height, left, top, bottom = 720, 300, 60, 40, 40
    longest, highest = curve[-1][0], 1.1 * max(limit_mb, max(memory for _, memory in curve))

    def place(seconds: float, memory: float) -> str:
        x = left + (width - left - 20) * seconds / longest
        return f"{x:.1f},{top + (height - top - bottom) * (1 - memory / highest):.1f}"

    step = max(len(curve) // 700, 1)
    bands = [curve[start : start + step] for start in range(0, len(curve), step)]
    points = " ".join(place(band[0][0], max(memory for _, memory in band)) for band in bands)
    end_y, base = place(0, limit_mb).split(",")[1], place(0, 0).split(",")[1]
    levels = [(value, place(0, value).split(",")[1]) for value in np.arange(0, highest, 1000)]
    marks = "".join(
        f'<text x="{left - 6}" y="{float(y) + 4:.1f}" text-anchor="end">{value / 1000:g}</text>'
        f'<line x1="{left}" x2="{width - 20}" y1="{y}" y2="{y}" stroke="#ddd"/>'
        for value, y in levels
    )
    times = "".join(
        f'<text x="{place(longest * part, 0).split(",")[0]}" y="{height - bottom + 16}" text-anchor="middle">'
        f"{longest * part:.0f} s</text>"
        for part in (0, 0.25, 0.5, 0.75, 1)
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" '
        f'font-size="12" role="img"><title>{title}</title><rect width="{width}" height="{height}" fill="white"/>'
        f'<text x="{left}" y="22" font-size="14">{title}</text>'
        f'<text x="{left}" y="{top - 4}" fill="#555">resident memory, GB</text>{marks}{times}'
        f'<line x1="{left}" x2="{width - 20}" y1="{end_y}" y2="{end_y}" stroke="#c33" stroke-dasharray="6 4"/>'
        f'<text x="{width - 22}" y="{float(end_y) - 5:.1f}" text-anchor="end" fill="#c33">--max-ram</text>'
        f'<polyline points="{left},{base} {points}" fill="none" stroke="#2266aa" stroke-width="1.5"/></svg>\n'
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=1024, help="voxels along each axis (default: 1024)")
    parser.add_argument("--patch", type=int, default=96, help="voxels of the patch along each axis (default: 96)")
    parser.add_argument("--max-ram", default="6GB")
    parser.add_argument("--step", type=float, default=0.75, help="distance of two windows, in their edges")
    parser.add_argument("--ending", choices=(".nii", ".nii.gz"), default=".nii")
    parser.add_argument("--folder", type=Path, help="where to make the temporary folder")
    parser.add_argument("--picture", type=Path, help="draw the curve into this file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        write_model(folder / "run", options.patch)
        image = folder / "volume.nii"
        write_volume(image, options.size)
        if options.ending == ".nii.gz":
            subprocess.run(["gzip", "-1", str(image)], check=True)
            image = folder / "volume.nii.gz"
        places = [str(folder / "run"), str(image), str(folder / "out")]
        command = [sys.executable, __file__, "--worker", *places, options.max_ram, str(options.step)]
        started = time.monotonic()
        curve, cpu = predict(command)
        seconds, peak = time.monotonic() - started, max(memory for _, memory in curve)
        found = open_image([folder / "out" / image.name])
        values = np.unique(found.read(((options.size // 2, options.size // 2 + 1), *[(0, options.size)] * 2)))
        limit = parse_bytes(options.max_ram) / 2**20
        title = f"{options.size}³ voxels, uint8{options.ending}, patch {options.patch}³, {FEATURES} features"
        print(f"{title}, step {options.step:g}: peak {peak:.0f} MB of {limit:.0f} MB, {seconds:.0f} s, {cpu:.0f} CPU s")
        print(f"segmentation {found.shape}, {found.dtype}, values in its middle slice {values.tolist()}")
        if options.picture is not None:
            options.picture.parent.mkdir(parents=True, exist_ok=True)
            options.picture.write_text(draw(curve, limit, title), encoding="utf-8")
        if peak > limit or found.shape != (options.size,) * 3:
            raise SystemExit("the peak is above the limit, or the segmentation is not of the image's grid")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        work(*sys.argv[2:])
    else:
        main()
