"""How long does a training step take on this CPU, and what is won by what?

    python benchmarks/train_step.py [--steps 5] [--threads 2] [--ways torch-plain,compiled]
    python benchmarks/train_step.py --layers

The network is the hippocampus plan: 3D, patch 40 × 56 × 40, batch 7, stages of 32, 64, 128, 256 channels. A step is
forward, Dice + cross-entropy with deep supervision, backward, clipping, SGD with Nesterov momentum. Each way runs in a
process of its own and they take turns, so that other load on the machine disturbs all alike; the median counts. CPU
seconds of all threads stand beside wall time: on a busy machine only they can be compared. ``torch-plain`` computes as
nnU-Net v2 does on a CPU: fp32, contiguous, torch's operators, the allocator as it is.
"""

import argparse
import dataclasses
import os
import statistics
import subprocess
import sys
import time

import torch

from autoseg import compute as computing
from autoseg import native
from autoseg.compute import Compute
from autoseg.networks import build_network, fused
from autoseg.targets import make_target
from planners.labels import LabelClass, Labels
from planners.plan import Architecture, Output, Stage, Target, Training

PATCH, BATCH, FEATURES = (40, 56, 40), 7, (32, 64, 128, 256)

PLAIN = Compute(device="cpu", precision="fp32", channels_last=False, threads=2)
LAST = dataclasses.replace(PLAIN, channels_last=True)
WAYS = {
    # name: how to compute, and whether the process keeps its freed memory
    "torch-plain": (PLAIN, False),
    "torch-plain-kept-memory": (PLAIN, True),
    "torch-channels-last": (LAST, True),
    "torch-bf16": (dataclasses.replace(LAST, precision="bf16"), True),
    "compiled-bf16": (dataclasses.replace(LAST, precision="bf16", native=True), True),
    "compiled": (dataclasses.replace(LAST, native=True), True),
}


def architecture() -> Architecture:
    steps = [(1, 1, 1)] + [(2, 2, 2)] * 3
    stages = tuple(
        Stage(features=width, kernel=(3, 3, 3), stride=step, num_blocks=2)
        for width, step in zip(FEATURES, steps, strict=True)
    )
    outputs = tuple(Output(stride=(2**i,) * 3, loss_weight=weight) for i, weight in enumerate((2 / 3, 1 / 3, 0.0)))
    return Architecture(family="plain-unet", dimensions=3, stages=stages, num_decoder_blocks=(2, 2, 2), outputs=outputs)


class Step:
    """One network in training, on random data."""

    def __init__(self, compute: Compute, keep_memory: bool) -> None:
        torch.set_num_threads(compute.threads)
        if keep_memory:
            native.keep_memory()
        self.compute, plan = compute, architecture()
        self.network = computing.place(build_network(plan, 1, 3, seed=0), compute)
        self.optimizer = torch.optim.SGD(
            self.network.parameters(), 0.01, momentum=0.99, nesterov=True, weight_decay=3e-5
        )
        labels = Labels(classes=tuple(LabelClass(name=str(value), value=value) for value in range(3)))
        self.target = make_target(Target(name="semantic", num_outputs=3), labels, Training())
        self.strides = [output.stride for output in plan.outputs]
        self.shares = [output.loss_weight for output in plan.outputs]
        generator = torch.Generator().manual_seed(0)
        self.image = computing.place(torch.randn(BATCH, 1, *PATCH, generator=generator), compute)
        self.label = torch.randint(3, (BATCH, 1, *PATCH), generator=generator, dtype=torch.int16)

    def __call__(self) -> float:
        self.network.train()
        self.optimizer.zero_grad(set_to_none=True)
        maps, weights = self.target.encode(self.label, self.strides)
        with computing.autocast(self.compute):
            outputs = self.network(self.image)
        loss = self.target.loss(outputs, maps, weights, self.shares)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 12.0)
        self.optimizer.step()
        return loss.item()

    def predict(self) -> None:
        self.network.eval()
        with torch.inference_mode(), computing.autocast(self.compute):
            self.network(self.image)


def serve(way: str, threads: int) -> None:
    """Answer each line on stdin with the wall and CPU seconds of a step and of a prediction, and the loss."""
    compute, keep = WAYS[way]
    step = Step(dataclasses.replace(compute, threads=threads), keep)
    step()
    step.predict()
    for _ in sys.stdin:
        values: list[float] = []
        loss = 0.0
        for part in ("step", "predict"):
            wall, cpu = time.perf_counter(), time.process_time()
            if part == "step":
                loss = step()
            else:
                step.predict()
            values += [time.perf_counter() - wall, time.process_time() - cpu]
        print(*values, loss, flush=True)


def race(ways: list[str], steps: int, threads: int) -> None:
    environment = {**os.environ, "OMP_WAIT_POLICY": "passive"}
    workers = {
        way: subprocess.Popen(
            [sys.executable, __file__, "--serve", way, "--threads", str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for way in ways
    }
    rows: dict[str, list[list[float]]] = {way: [] for way in ways}
    for _ in range(steps):
        for way, worker in workers.items():
            assert worker.stdin is not None
            assert worker.stdout is not None
            worker.stdin.write("go\n")
            worker.stdin.flush()
            rows[way].append([float(word) for word in worker.stdout.readline().split()])
    for worker in workers.values():
        worker.communicate()
    load = os.getloadavg()[0]
    print(f"{threads} threads, {steps} rounds, load {load:.1f}, torch {torch.__version__}, AMX {computing.has_amx()}")
    print(f"{'way':26} {'step s':>8} {'cpu s':>8} {'ratio':>6}   {'predict s':>9} {'cpu s':>8} {'ratio':>6}  last loss")
    first: list[float] = []
    for way, found in rows.items():
        medians = [statistics.median(column) for column in zip(*found, strict=True)]
        first = first or medians
        ratios = first[1] / medians[1], first[3] / medians[3]
        print(
            f"{way:26} {medians[0]:8.2f} {medians[1]:8.2f} {ratios[0]:6.2f}   "
            f"{medians[2]:9.2f} {medians[3]:8.2f} {ratios[1]:6.2f}  {found[-1][4]:.4f}"
        )


def layers(threads: int) -> None:
    """Time every convolution of the network by torch and with each tile, forward and backward."""
    torch.set_num_threads(threads)
    native.keep_memory()
    shapes = [(width, tuple(size >> level for size in PATCH)) for level, width in enumerate(FEATURES)]
    print(f"{'channels':>10} {'shape':>12}  CPU ms forward + backward")
    for width, shape in shapes:
        for inputs in (width, 2 * width) if width != FEATURES[-1] else (width,):
            x = torch.randn(BATCH, inputs, *shape).contiguous(memory_format=torch.channels_last_3d).requires_grad_()
            weight = (torch.randn(width, inputs, 3, 3, 3) / (27 * inputs) ** 0.5).requires_grad_()
            bias = torch.zeros(width).requires_grad_()
            tensors = (x, weight, bias)
            times = {"torch": _cpu_ms(lambda t=tensors: torch.nn.functional.conv3d(*t, padding=1), tensors)}
            for tiles in ((2, 2, 2), (2, 4, 2), (2, 4, 4), (4, 4, 4)):
                name = "".join(map(str, tiles))
                times[name] = _cpu_ms(lambda t=tensors, m=tiles: fused._Winograd.apply(*t, m), tensors)
            chosen = fused.choose_tiles((BATCH, *shape), (3, 3, 3), inputs, width)
            shown = "  ".join(f"{name} {value:5.0f}" for name, value in times.items())
            place = "×".join(map(str, shape))
            print(f"{inputs:>5}→{width:<4} {place:>12}  {shown}  chosen {''.join(map(str, chosen or ('torch',)))}")


def _cpu_ms(run, tensors, rounds: int = 5) -> float:
    direction = torch.ones_like(run())
    seconds = []
    for _ in range(rounds):
        started = time.process_time()
        torch.autograd.grad(run(), tensors, direction)
        seconds.append(time.process_time() - started)
    return 1000 * statistics.median(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--threads", type=int, default=computing.count_threads())
    parser.add_argument("--ways", default=",".join(WAYS))
    parser.add_argument("--layers", action="store_true")
    parser.add_argument("--serve", choices=WAYS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve, options.threads)
    elif options.layers:
        layers(options.threads)
    else:
        race(options.ways.split(","), options.steps, options.threads)


if __name__ == "__main__":
    main()
