"""How small are the logits that judge ensembles, what do they change, and what does judging all ensembles cost?

    python benchmarks/kept_logits.py MODEL IMAGES LABELS [--cases 16] [--quick]

MODEL is a folder that nnU-Net v2 has trained (one fold of one configuration will do), IMAGES and LABELS belong to its
dataset. The second member of the ensemble is the same network on images with noise added. Beside real logits there are
made ones of 14 classes. All on one thread; MB/s are of float32 logits per second of processor time, medians of three.
"""

import argparse
import io
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage

from autoseg import compute as computing
from autoseg.compute import Compute
from autoseg.data.io import open_image, open_label
from autoseg.evaluation.overlap import score_case
from autoseg.evaluation.weights import weight_steps
from autoseg.inference.ensembles import Ensemble, count_ensembles
from autoseg.inference.export import LogitsPart, average, segment
from autoseg.inference.kept_logits import KeptLogits, keep_logits
from autoseg.inference.sliding_window import WindowOptions, predict_logits
from autoseg.interop import open_nnunet
from autoseg.networks import build_network, put_weights
from autoseg.preprocessing.preprocess import CaseGrid, preprocess_case
from autoseg.targets import Target, make_target
from planners.fingerprint import Channel
from planners.labels import LabelClass, Labels
from planners.plan import MemoryBudget, Plan

CPU = Compute(device="cpu", precision="fp32", channels_last=False, threads=1, reasons=())
NOISE = 0.3  # of the image's standard deviation: Dice falls a little


def seconds(work: Callable[[], object], rounds: int = 3) -> float:
    spent = []
    for _ in range(rounds):
        start = time.process_time()
        work()
        spent.append(time.process_time() - start)
    return statistics.median(spent)


def measure_files(name: str, logits: list[np.ndarray], folder: Path) -> None:
    path, total = folder / "case.logits", {"f16": 0, "ours": 0}
    times = {"f16 write": 0.0, "f16 read": 0.0, "ours write": 0.0, "ours read": 0.0}
    for item in logits:
        buffer = io.BytesIO()
        times["f16 write"] += seconds(lambda item=item: np.save(folder / "case.npy", item.astype(np.float16)))
        np.save(buffer, item.astype(np.float16))
        total["f16"] += len(buffer.getvalue())
        times["f16 read"] += seconds(lambda: np.load(folder / "case.npy").astype(np.float32))
        times["ours write"] += seconds(lambda item=item: keep_logits(path, item, relative=True))
        total["ours"] += path.stat().st_size
        times["ours read"] += seconds(lambda: KeptLogits(path).read())
    voxels, megabytes = sum(item[0].size for item in logits), sum(item.nbytes for item in logits) / 1e6
    print(f"\n{name}: {len(logits)} cases, {voxels / len(logits) / 1e3:.0f} thousand voxels, {len(logits[0])} outputs")
    for kind, size in total.items():
        rates = " ".join(f"{what} {megabytes / times[f'{kind} {what}']:.0f} MB/s" for what in ("write", "read"))
        print(f"  {kind:5} {size / voxels:6.2f} bytes a voxel, {size / len(logits) / 1e3:8.0f} kB a case   {rates}")


def measure_agreement(pairs: list[tuple[np.ndarray, np.ndarray, np.ndarray]], target: Target, folder: Path) -> None:
    differing, voxels, dice = 0, 0, []
    for first, second, label in pairs:
        kept = []
        for item in (first, second):
            keep_logits(folder / "case.logits", item, relative=True)
            kept.append(KeptLogits(folder / "case.logits").read())
        maps = [
            target.decode_probabilities(average([target.probabilities(item) for item in some], (1.0, 1.0)))
            for some in ((first, second), kept)
        ]
        differing, voxels = differing + int((maps[0] != maps[1]).sum()), voxels + label.size
        dice.append([score_case("", label, found, target.labels).mean_dice or 0.0 for found in maps])
    table = np.array(dice)
    print(f"  ensemble of two: {differing} of {voxels} voxels differ ({differing / voxels:.1e})")
    print(
        f"  its mean Dice {table[:, 0].mean():.6f}, from kept logits {table[:, 1].mean():.6f}: differs by "
        f"{abs(table[:, 0].mean() - table[:, 1].mean()):.1e}, in one case by at most {np.abs(np.diff(table)).max():.1e}"
    )


def real_logits(model: Path, images: Path, labels: Path, count: int) -> tuple[list[tuple[np.ndarray, ...]], Target]:
    plan, weights = open_nnunet(model)
    fold = next(iter(weights))
    configuration = plan.configuration(fold[0])
    network = build_network(
        configuration.architecture, configuration.num_input_channels, configuration.target.num_outputs
    )
    put_weights(network, weights[fold], "the model")
    network = computing.place(network, CPU)
    found = []
    for path in sorted(labels.glob("*.nii.gz"))[:count]:
        image = open_image([images / path.name.replace(".nii.gz", "_0000.nii.gz")])
        case = preprocess_case(image.read(), image.geometry.spacing_mm, plan, configuration)
        tensor = torch.from_numpy(case.image_CZYX)
        noise = NOISE * torch.randn(tensor.shape, generator=torch.Generator().manual_seed(len(found)))
        options = WindowOptions(mirror=False)
        two = [
            predict_logits([network], item, configuration, CPU, options).numpy() for item in (tensor, tensor + noise)
        ]
        label = plan.labels.encode(open_label(path).read()[0])
        if two[0].shape[1:] == label.shape:  # no resampling in between: the comparison is of the logits alone
            found.append((*two, label))
    return found, make_target(configuration.target, plan.labels, configuration.training)


def made_logits(seed: int, shape: tuple[int, ...], num_outputs: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    coarse = rng.normal(size=(num_outputs, *(size // 16 for size in shape))).astype(np.float32)
    coarse[0] += 1.5
    maps = np.stack([ndimage.zoom(item, 16, order=1) for item in coarse])
    return (15 * maps + 0.5 * rng.normal(size=maps.shape)).astype(np.float32)


def measure_judging(num_outputs: int, num_configurations: int, shape: tuple[int, int, int]) -> None:
    labels = Labels(classes=tuple(LabelClass(name=str(value), value=value) for value in range(num_outputs)))
    plan_of = _plan(labels)
    configuration = plan_of.configurations[0]
    target = make_target(
        configuration.target.__class__(name="semantic", num_outputs=num_outputs), labels, configuration.training
    )
    grid = CaseGrid(
        shape_before_crop=shape, crop_box=tuple((0, size) for size in shape), shape_after_crop=shape,
        spacing_before_mm=(1.0,) * 3, shape=shape, spacing_mm=(1.0,) * 3,
    )  # fmt: skip
    shared = made_logits(0, shape, num_outputs)
    parts = [
        LogitsPart(
            logits_KZYX=shared + made_logits(1 + i, shape, num_outputs) / 8,
            grid=grid,
            resampling=configuration.resampling,
        )
        for i in range(num_configurations)
    ]
    label = target.decode(shared)
    sets = [(i, j) for i in range(num_configurations) for j in range(i)] + (
        [tuple(range(num_configurations))] if num_configurations > 2 else []
    )
    ensembles = [Ensemble(members=item, weights=step) for item in sets for step in weight_steps(len(item))]
    equal = [item for item in ensembles if len(set(item.weights)) == 1]

    def one_by_one() -> None:
        for item in equal:
            score_case("", label, segment([parts[member] for member in item.members], target, plan_of), labels)

    slow = seconds(one_by_one, 1)
    fast = seconds(lambda: count_ensembles(parts, equal, target, plan_of, label), 1)
    weighted = seconds(lambda: count_ensembles(parts, ensembles, target, plan_of, label), 1)
    print(
        f"  {num_configurations} configurations: {len(equal)} ensembles one by one {slow:.1f} s, in one pass "
        f"{fast:.1f} s; with weights ({len(ensembles)}) {weighted:.1f} s"
    )


def _plan(labels: Labels) -> Plan:
    from planners import PLANNERS, Fingerprint

    fingerprint = Fingerprint(
        dataset="made", channels=(Channel(name="MRI"),), labels=labels, num_cases=10,
        case_ids=tuple(map(str, range(10))), spacings_mm=((1.0,) * 3,) * 10, shapes=((96, 160, 160),) * 10,
    )  # fmt: skip
    return PLANNERS["default"](fingerprint, MemoryBudget())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("labels", type=Path)
    parser.add_argument("--cases", type=int, default=16)
    parser.add_argument("--quick", action="store_true", help="smaller made logits")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{time.strftime('%Y-%m')}, {platform.processor() or platform.machine()}, python {platform.python_version()}")
    shape = (48, 80, 80) if options.quick else (96, 160, 160)
    with tempfile.TemporaryDirectory() as folder:
        pairs, target = real_logits(options.model, options.images, options.labels, options.cases)
        measure_files("trained network", [first for first, _, _ in pairs], Path(folder))
        measure_agreement(pairs, target, Path(folder))
        measure_files("made logits", [made_logits(0, shape, 14)], Path(folder))
    print(f"\njudging one case of {' × '.join(map(str, shape))}, 14 classes")
    for count in (2, 3, 4):
        measure_judging(14, count, shape)


if __name__ == "__main__":
    main()
