"""Main memory: the arithmetic beside what the loader, a prediction and preprocessing really take."""

import dataclasses
import math
import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest
import torch

from autoseg.compute import Compute
from autoseg.data.io import image_from_array
from autoseg.errors import RoomError
from autoseg.inference.export import LogitsPart, segment
from autoseg.inference.sliding_window import WindowOptions, predict_logits
from autoseg.preprocessing.populate import SCORING_BYTES as REAL_SCORING_BYTES
from autoseg.preprocessing.populate import estimate_bytes
from autoseg.preprocessing.preprocess import CaseGrid
from autoseg.preprocessing.resampling import resampled_shape
from autoseg.preprocessing.store import StoredCase
from autoseg.targets import make_target
from autoseg.training.host_memory import refuse_if_short, warn_if_short
from autoseg.training.measure import largest_sum, with_batch_size
from autoseg.training.sampling import AHEAD, BatchSource
from autoseg.training.spatial import PatchFrame
from planners import PLANNERS, Channel, Fingerprint, LabelClass, Labels, MemoryBudget, Plan
from planners.decision import byte_size
from planners.describe import describe
from planners.host_memory import (
    BATCHES,
    PROGRAM,
    SCORING_BYTES,
    loader_size,
    loading_bytes,
    predict_host,
    prediction_bytes,
    preprocessing_bytes,
    promise_host_memory,
    training_bytes,
)
from planners.plan import Augmentation, Configuration

COMPUTE = Compute(device="cpu", precision="fp32", channels_last=False, threads=1)
FACTS = Fingerprint(
    dataset="organs",
    channels=(Channel(name="CT"),),
    labels=Labels(classes=tuple(LabelClass(name=str(value), value=value) for value in range(20))),
    num_cases=3,
    spacings_mm=((2.0, 1.0, 1.0),) * 3,
    shapes=((30, 60, 60), (40, 80, 80), (60, 160, 120)),
)


@pytest.fixture
def plan() -> Plan:
    return PLANNERS["default"](FACTS, MemoryBudget(device_bytes=4 * 10**9))


@pytest.mark.parametrize("patch", [(20, 48, 32), (12, 96, 64), (40, 56)])
@pytest.mark.parametrize("in_plane", [False, True])
def test_the_box_is_the_loaders(
    patch: tuple[int, ...], in_plane: bool, make_configuration: Callable[..., Configuration]
) -> None:
    augmentation = Augmentation(rotation_radians=0.7, in_plane=in_plane and len(patch) == 3)
    item = make_configuration(patch, augmentation=augmentation)
    assert loader_size(item) == PatchFrame.of(item, augment=True).loader


def test_constants_are_those_of_the_code() -> None:
    assert BATCHES == AHEAD + 2
    assert SCORING_BYTES == REAL_SCORING_BYTES


def test_loading_takes_what_is_predicted(
    make_configuration: Callable[..., Configuration], make_case: Callable[..., StoredCase]
) -> None:
    item = make_configuration((24, 32, 28), batch_size=3, num_channels=2)
    source = BatchSource([make_case((60, 64, 60), num_channels=2)], item, seed=0, augment=True)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        held = [source.batch(0, step) for step in range(BATCHES)]
    assert len(held) == BATCHES
    predicted, measured = loading_bytes(item), largest_sum(profile)
    assert 0.4 * predicted < measured < 1.05 * predicted  # on a CPU the boxes of one batch alone are alive


def test_a_prediction_takes_what_is_predicted(plan: Plan) -> None:
    """Sums and network on one hand, the export on the other; a network without weight to speak of."""

    class Classes(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
            return [x.expand(-1, 20, *(-1,) * (x.dim() - 2))]

    item = plan.configuration("3d_fullres")
    item = dataclasses.replace(item, patch_size=(16, 16, 16), output_size=(16, 16, 16), batch_size=1)
    shape = (40, 64, 48)
    image = torch.randn(1, *shape)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        one = WindowOptions(batch_voxels=16**3)  # what a network takes for more is its own
        logits = predict_logits([Classes()], image, item, COMPUTE, one).numpy()
    grid = CaseGrid(
        shape_before_crop=shape,
        crop_box=((0, 40), (0, 64), (0, 48)),
        shape_after_crop=shape,
        spacing_before_mm=(2.0, 1.0, 1.0),
        shape=shape,
        spacing_mm=(2.0, 1.0, 1.0),
    )
    part = LogitsPart(logits_KZYX=logits, grid=grid, resampling=item.resampling)
    target = make_target(item.target, plan.labels, item.training)
    tracemalloc.start()
    segment([part], target, plan)
    exporting = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    images = 2 * image.numel() * 4  # read ahead, and the one that went in
    waiting = logits.nbytes  # of the case before, while it is written
    measured = largest_sum(profile) + exporting + images + waiting
    predicted = prediction_bytes(item, shape, image.numel())
    assert 0.9 * predicted < measured < 1.1 * predicted


@pytest.mark.parametrize("shape", [(20, 40, 30), (30, 30, 30)])
@pytest.mark.parametrize("spacing", [(2.0, 1.0, 1.0), (3.0, 0.5, 0.5), (1.0, 2.0, 2.0)])
def test_preprocessing_is_what_its_own_gate_holds(
    shape: tuple[int, int, int], spacing: tuple[float, float, float], plan: Plan
) -> None:
    item = plan.configuration("3d_fullres")
    image = image_from_array(np.zeros(shape, np.float32), spacing)
    label = image_from_array(np.zeros(shape, np.uint8), spacing)
    grid = resampled_shape(shape, spacing, item.spacing_mm)
    voxels = int(np.prod(shape))
    assert preprocessing_bytes(item, voxels, grid, shape) == estimate_bytes(image, label, plan, item)
    objects = dataclasses.replace(plan, labels=dataclasses.replace(plan.labels, instance_classes=("1",)))
    ids = image_from_array(np.zeros(shape, np.int32), spacing)
    found = preprocessing_bytes(item, voxels, grid, shape, with_ids=True)
    assert found == estimate_bytes(image, ids, objects, item) > estimate_bytes(image, label, plan, item)


def test_the_largest_case_decides(plan: Plan) -> None:
    item = plan.configuration("3d_fullres")
    found = predict_host(item, plan, FACTS)
    assert found.largest == (60, 160, 120)
    assert found.median_prediction < found.prediction <= found.total
    assert found.prediction == prediction_bytes(item, found.largest, 60 * 160 * 120)
    cropped = predict_host(item, plan, dataclasses.replace(FACTS, cropped_fraction=0.5))
    assert cropped.prediction > found.prediction


def test_a_plan_tells_its_main_memory_and_warns(plan: Plan) -> None:
    told = promise_host_memory(plan, FACTS)
    assert promise_host_memory(told, FACTS) == told
    rows = [line for line in describe(told).splitlines() if line.startswith("  main memory")]
    assert len(rows) == len(plan.configurations)
    assert "predicting the largest case, 60 × 160 × 120" in rows[0]
    poor = dataclasses.replace(plan, budget=dataclasses.replace(plan.budget, host_bytes=10**7))
    text = describe(promise_host_memory(poor, FACTS))
    assert "above the 10 MB that there are" in " ".join(text.split())


def test_a_small_machine_is_told_of(plan: Plan, capsys: pytest.CaptureFixture[str]) -> None:
    names = [item.name for item in plan.configurations]
    assert warn_if_short(plan, FACTS, names, on_cpu=False, free_bytes=10**12) == ()
    assert capsys.readouterr().err == ""
    lines = warn_if_short(plan, FACTS, names, on_cpu=False, free_bytes=10**6)
    assert len(lines) == len(names)
    assert "of main memory, of which 1 MB are free here" in capsys.readouterr().err
    found = predict_host(plan.configuration("3d_fullres"), plan, FACTS)
    needed = found.total
    assert found.training > needed
    assert warn_if_short(plan, FACTS, ["3d_fullres"], on_cpu=False, free_bytes=needed) == ()
    (line,) = warn_if_short(plan, FACTS, ["3d_fullres"], on_cpu=True, free_bytes=needed)
    assert f"may need {byte_size(found.training)} of main memory" in line


def test_a_training_that_main_memory_does_not_hold_is_refused_before_it_begins(plan: Plan) -> None:
    plan = with_batch_size(plan, "3d_fullres", 8)
    item = plan.configuration("3d_fullres")
    whole = training_bytes(item)
    refuse_if_short(plan, ["3d_fullres"], half=False, free_bytes=round(0.81 * whole) - PROGRAM)  # it might fit
    two = training_bytes(dataclasses.replace(item, batch_size=2))
    free = math.ceil((two - PROGRAM) / 0.8)
    with pytest.raises(RoomError, match=r"--set 3d_fullres\.batch_size=2\)") as fault:
        refuse_if_short(plan, ["3d_fullres"], half=False, free_bytes=free)
    assert f"needs about {byte_size(whole)} of main memory, and there are {byte_size(free + PROGRAM)}." in str(
        fault.value
    )
    with pytest.raises(RoomError, match="--budget"):
        refuse_if_short(plan, ["3d_fullres"], half=False, free_bytes=10**7)


def test_training_in_half_precision_and_of_unknown_networks_is_predicted_too(plan: Plan) -> None:
    item = plan.configuration("3d_fullres")
    strange = dataclasses.replace(item, architecture=dataclasses.replace(item.architecture, family="my-network"))
    assert item.estimated_bytes < training_bytes(item, half=True) < training_bytes(item)
    assert 0.7 < training_bytes(strange) / training_bytes(item) < 1.4
