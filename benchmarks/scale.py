"""Do many cases take time in proportion to their number, and memory that does not grow?

    python benchmarks/scale.py cases [--counts 1250,2500,5000]
    python benchmarks/scale.py files [--counts 500,2000] [--model MODEL]

``cases``: tiny cases made in code go through check, fingerprint, plan and preprocessing (``autoseg run --until
preprocess``), in a new folder for each number. ``files``: as many images in one folder are predicted. Every number is a
process of its own, whose memory (of the whole tree) is sampled ten times a second. Printed are time per case and the
peak; memory must not grow by more than GROWTH from the least to the greatest number, time per case by LINEAR. The
curves are drawn into docs/pictures/.
"""

import argparse
import itertools
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from memory_curve import Curve, watch_command, write_picture

from autoseg.data.image import Geometry
from autoseg.data.io import write_segmentation
from autoseg.data.io_write import write_text

ROOT = Path(__file__).resolve().parents[1]
PICTURES = ROOT / "docs" / "pictures"
KEPT_MODEL = ROOT / "tests" / "kept_models" / "0.1.0" / "classes" / "run"
SHAPE = (16, 18, 20)
GEOMETRY = Geometry(spacing_mm=(2.0, 1.5, 1.5))
GROWTH_MB = 100  # assumption: file names and measures of thousands of cases, a few kB each
LINEAR = 1.3  # time per case of the greatest number may be so many times that of the least


def make_case(number: int, channels: int) -> tuple[np.ndarray, np.ndarray]:
    """Make an image (channels, z, y, x) and a label (z, y, x): a ball that is brighter than what is around it."""
    rng = np.random.default_rng([11, number])
    place, radius = [size / 2 + rng.uniform(-2, 2) for size in SHAPE], rng.uniform(3, 5)
    z, y, x = np.ogrid[tuple(slice(0, size) for size in SHAPE)]
    label = ((z - place[0]) ** 2 + (y - place[1]) ** 2 + (x - place[2]) ** 2 < radius**2).astype(np.uint8)
    image = rng.normal(100, 10, (channels, *SHAPE)) + 60 * label
    return image.astype(np.int16), label


def write_images(folder: Path, count: int, channels: int, labels: Path | None = None) -> None:
    for number in range(count):
        image_CZYX, label_ZYX = make_case(number, channels)
        for channel, image_ZYX in enumerate(image_CZYX):
            write_segmentation(folder / f"case_{number:05d}_{channel:04d}.nii.gz", image_ZYX, GEOMETRY)
        if labels is not None:
            write_segmentation(labels / f"case_{number:05d}.nii.gz", label_ZYX, GEOMETRY)


def make_dataset(folder: Path, count: int) -> Path:
    write_images(folder / "imagesTr", count, 1, folder / "labelsTr")
    content = {"channel_names": {"0": "MRI"}, "labels": {"background": 0, "ball": 1}}
    write_text(folder / "dataset.json", json.dumps({**content, "numTraining": count, "file_ending": ".nii.gz"}))
    return folder


def measure_cases(counts: Sequence[int], folder: Path) -> list[Curve]:
    curves = []
    for count in counts:
        dataset = make_dataset(folder / f"dataset_{count}", count)
        command = ["run", str(dataset), "--out", str(folder / f"run_{count}"), "--until", "preprocess"]
        curves.append(measure(f"{count:,} cases", command, folder))
        print(f"  {number_text(curves[-1], count)}", flush=True)
        shutil.rmtree(dataset)
        shutil.rmtree(folder / f"run_{count}")
    return curves


def measure_files(counts: Sequence[int], folder: Path, model: Path) -> list[Curve]:
    channels = len(json.loads((model / "plan.json").read_text())["channels"])
    curves = []
    for count in counts:
        images, output = folder / f"images_{count}", folder / f"predicted_{count}"
        write_images(images, count, channels)
        command = ["predict", str(model), str(images), str(output), "--device", "cpu"]
        curves.append(measure(f"{count:,} files", command, folder))
        found = len(list(output.glob("*.nii.gz")))
        if found != count:
            sys.exit(f"{found} of {count} images were segmented")
        print(f"  {number_text(curves[-1], count)}", flush=True)
    return curves


def measure(name: str, words: Sequence[str], folder: Path) -> Curve:
    return watch_command(name, [sys.executable, "-m", "autoseg", *words], folder / "log.txt")


def number_text(curve: Curve, count: int) -> str:
    return (
        f"{curve.name}: {curve.wall_s:.1f} s, {1000 * curve.wall_s / count:.1f} ms each "
        f"({1000 * curve.cpu_s / count:.1f} ms of processor time), at most {curve.peak_mb:.0f} MB"
    )


def judge(curves: Sequence[Curve], counts: Sequence[int]) -> None:
    """Say whether memory is flat and time linear, from the least to the greatest number."""
    first, last = curves[0], curves[-1]
    growth = last.peak_mb - first.peak_mb
    slope = (last.cpu_s / counts[-1]) / (first.cpu_s / counts[0])
    print(f"memory grows by {growth:.0f} MB (allowed {GROWTH_MB}): {'flat' if growth <= GROWTH_MB else 'NOT FLAT'}")
    print(f"processor time per case × {slope:.2f} (allowed {LINEAR}): {'linear' if slope <= LINEAR else 'NOT LINEAR'}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("cases", "files"))
    parser.add_argument("--counts", help="numbers of cases, rising (default: 1250,2500,5000 cases; 500,2000 files)")
    parser.add_argument("--model", type=Path, default=KEPT_MODEL, help="for files: a model whose channels are made")
    parser.add_argument("--picture", type=Path, help="where the curves are drawn (default: docs/pictures/scale_*.svg)")
    options = parser.parse_args()
    text = options.counts or ("1250,2500,5000" if options.what == "cases" else "500,2000")
    counts = [int(item) for item in text.split(",")]
    if len(counts) < 2 or any(a >= b for a, b in itertools.pairwise(counts)):
        parser.error(f"--counts {text}: give at least two rising numbers")
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if options.what == "cases":
            curves = measure_cases(counts, folder)
        else:
            curves = measure_files(counts, folder, options.model)
    judge(curves, counts)
    write_picture(options.picture or PICTURES / f"scale_{options.what}.svg", f"Memory for many {options.what}", curves)


if __name__ == "__main__":
    main()
