"""Prediction on a CPU holds the maps of one window at a time, and of these only those that are still needed."""

import json
import math
import subprocess
import sys
from dataclasses import replace

import pytest

from autoseg import native
from planners import records

SCRIPT = """
import json, sys
from pathlib import Path
import torch
from autoseg import compute as computing
from autoseg.compute import Compute
from autoseg.inference.passes import Passes, Inputs, WindowOptions
from autoseg.networks import build_network
from planners import records
from planners.plan import Configuration

def memory(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(name))

configuration = records.from_json(Configuration, json.loads(sys.stdin.read()))
compute = Compute(device="cpu", precision="fp32", channels_last=True, threads=2, native=True)
computing.prepare(compute)
network = build_network(configuration.architecture, 1, configuration.target.num_outputs)
network = computing.place(network, compute).eval()
image = torch.randn(1, *configuration.patch_size)
passes = Passes([network], configuration, compute, WindowOptions())
inputs = Inputs(configuration, image, None)
starts = [((0, 0, 0), form) for form in passes.forms]
before = memory("VmRSS")
with torch.inference_mode():
    for _ in passes.answers([network], inputs, starts, each=False):
        pass
print(json.dumps({"forms": len(starts), "rise": memory("VmHWM") - before}))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.skipif(native.kernels().library is None, reason="torch's own operators need copies")
def test_mirrored_windows_do_not_add_up_their_memory(make_configuration):
    patch = (32, 64, 128)
    tiny = make_configuration(patch).architecture
    stages = tuple(
        replace(stage, features=features, num_blocks=2) for stage, features in zip(tiny.stages, (32, 64), strict=True)
    )
    architecture = replace(tiny, stages=stages, num_decoder_blocks=(2,))
    configuration = make_configuration(patch, architecture=architecture)
    text = json.dumps(records.to_json(configuration))
    done = subprocess.run([sys.executable, "-c", SCRIPT], input=text, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found, map_mb = json.loads(done.stdout), 4 * 32 * math.prod(patch) / 2**20
    assert found["forms"] == 8
    # At least 3.25 maps: skip, joined (two) and coarse ones; more where the allocator leaves gaps (10 seen). Eight
    # windows at once take 26 and more.
    assert found["rise"] < 13 * map_mb
