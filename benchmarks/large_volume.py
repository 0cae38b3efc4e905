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
from pathlib import Path

import numpy as np
from made_plans import make_configuration, make_plan
from memory_curve import watch_command, write_picture

from autoseg.data.image import Geometry
from autoseg.data.io import open_image
from autoseg.data.region_writing import RegionWriter
from autoseg.networks import build_network, save_weights
from autoseg.options import parse_bytes
from autoseg.run_folder import RunFolder

FEATURES, STAGES, NUM_CLASSES = 8, 3, 3
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
    item = make_configuration((patch,) * 3, FEATURES, STAGES, NUM_CLASSES, most_features=FEATURES, num_blocks=1)
    run = RunFolder(folder)
    run.write(make_plan(item), run.plan_file)
    network = build_network(item.architecture, 1, NUM_CLASSES, seed=0)
    save_weights(run.fold(item.name, 0).weights_last, network, {"step": "0"})


def work(model: str, image: str, output: str, max_ram: str, step: str) -> None:
    """Predict, in the process that is watched."""
    from autoseg.inference.predictor import predict_folder
    from autoseg.inference.speed import SPEEDS, Speed

    SPEEDS["wide"] = Speed(name="wide", mirror=False, step=float(step), max_folds=None, because="this benchmark")
    predict_folder(model, image, output, max_ram=max_ram, speed="wide", device="cpu")


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
        curve = watch_command(f"{options.size}³", command, folder / "log.txt")
        found = open_image([folder / "out" / image.name])
        values = np.unique(found.read(((options.size // 2, options.size // 2 + 1), *[(0, options.size)] * 2)))
        limit = parse_bytes(options.max_ram)
        title = f"{options.size}³ voxels, uint8{options.ending}, patch {options.patch}³, {FEATURES} features"
        print(
            f"{title}, step {options.step:g}: peak {curve.peak_mb:.0f} MB of {limit / 10**6:.0f} MB, "
            f"{curve.wall_s:.0f} s, {curve.cpu_s:.0f} CPU s"
        )
        print(f"segmentation {found.shape}, {found.dtype}, values in its middle slice {values.tolist()}")
        if options.picture is not None:
            options.picture.parent.mkdir(parents=True, exist_ok=True)
            write_picture(options.picture, f"Memory while {title} is predicted", [curve], limit / 10**9)
        if curve.peak_mb > limit / 10**6 or found.shape != (options.size,) * 3:
            raise SystemExit("the peak is above the limit, or the segmentation is not of the image's grid")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        work(*sys.argv[2:])
    else:
        main()
