import dataclasses
import math
from typing import Any

import pytest
import torch

from autoseg.networks import build_network
from autoseg.targets import make_target
from autoseg.training.measure import SavedBytes
from planners import PLANNERS, Channel, Fingerprint, LabelClass, Labels, MemoryBudget
from planners.memory import BYTES_RESIDENT, BYTES_UPDATING, record_step, step_bytes
from planners.network_size import feature_map_elements, num_parameters
from planners.plan import Architecture, Configuration, Input, Output, Plan, Stage
from planners.presets import DEFAULT, build_architecture
from planners.records import PlanError
from planners.topology import topology


def plain(spacing: tuple[float, ...], size: tuple[int, ...]) -> Architecture:
    return build_architecture(DEFAULT, topology(spacing, size))


# Counted in instantiated networks of nnU-Net v2.8.1; three label values.
@pytest.mark.parametrize(
    ("spacing", "size", "elements"),
    [
        ((1, 1, 1), (128, 128, 128), 452_796_416),
        ((1, 1), (512, 512), 82_886_656),
    ],
)
def test_checked_elements(spacing: tuple[float, ...], size: tuple[int, ...], elements: int) -> None:
    assert feature_map_elements(plain(spacing, size), size, 3) == elements


def test_checked_elements_of_an_anisotropic_network() -> None:
    strides = [(1, 1, 1), (1, 2, 2), (2, 2, 2), (2, 2, 2), (1, 2, 2), (1, 2, 2)]
    stages = tuple(
        Stage(features=min(320, 32 * 2**index), kernel=(3, 3, 3), stride=stride, num_blocks=2)
        for index, stride in enumerate(strides)
    )
    network = Architecture(family="plain-unet", dimensions=3, stages=stages, num_decoder_blocks=(2,) * 5, outputs=())
    assert feature_map_elements(network, (16, 320, 256), 3) == 353_525_760


def tiny() -> Architecture:
    stages = (
        Stage(features=2, kernel=(3, 3), stride=(1, 1), num_blocks=2),
        Stage(features=3, kernel=(3, 1), stride=(2, 2), num_blocks=1),
    )
    outputs = (Output(stride=(1, 1), loss_weight=1.0),)
    return Architecture(family="plain-unet", dimensions=2, stages=stages, num_decoder_blocks=(2,), outputs=outputs)


def test_parameters_of_a_tiny_network_by_hand() -> None:
    norm = 2
    encoder = (1 * 2 * 9 + 2 + norm * 2) + (2 * 2 * 9 + 2 + norm * 2) + (2 * 3 * 3 + 3 + norm * 3)
    decoder = (3 * 2 * 4 + 2) + (4 * 2 * 9 + 2 + norm * 2) + (2 * 2 * 9 + 2 + norm * 2)
    head = 2 * 5 + 5
    assert num_parameters(tiny(), num_input_channels=1, num_outputs=5) == encoder + decoder + head


def test_elements_of_a_tiny_network_by_hand() -> None:
    fine, coarse = 8 * 8 * 2, 4 * 4 * 3
    assert feature_map_elements(tiny(), (8, 8), 5) == 2 * fine + coarse + fine + 2 * fine + 5 * 64


def test_bytes_of_a_tiny_network_by_hand() -> None:
    """In fp32 and without work space: the peak is where the way back begins, at the finest decoder block."""
    fine, coarse, voxels, single = 8 * 8 * 2, 4 * 4 * 3, 64, 4
    found = step_bytes(tiny(), (8, 8), batch_size=3, num_input_channels=1, num_outputs=5, half=False, scratch=False)
    kept = 2 * (4 * fine + coarse) + 2 * fine  # convolution and activation of every block, the joined map
    assert found.activations == 3 * single * (kept + voxels)
    assert found.parameters == BYTES_RESIDENT * num_parameters(tiny(), 1, 5)
    labels = voxels * (2 + 8)
    logits = 5 * voxels * single
    probabilities = 5 * voxels * single + voxels * single
    assert found.loss == 3 * (labels + logits + probabilities)
    gradient = 5 * voxels * single + 3 * voxels * single
    assert found.transient == 3 * gradient  # of the logits: more than two maps of the finest features
    assert found.total == found.parameters + found.activations + found.loss + found.transient


def test_a_large_network_on_a_small_patch_peaks_while_it_is_updated() -> None:
    network = plain((1, 1, 1), (32, 32, 32))
    found = step_bytes(network, (8, 8, 8), 1, 1, 2)
    assert found.parameters == BYTES_UPDATING * num_parameters(network, 1, 2)
    assert found.activations == found.transient == 0


Facts = list[tuple[str, Fingerprint, MemoryBudget]]


def twenty_configurations(facts: Facts) -> list[tuple[Plan, Configuration]]:
    """Twenty configurations of the kept plans, far apart in their list; four of them for many classes and channels."""
    plans = [PLANNERS[planner](fingerprint, budget) for planner, fingerprint, budget in facts[::11]]
    found = [(plan, item) for plan in plans for item in plan.configurations if item.previous is None]
    many = [(many_classes_and_channels(plan), item.name) for plan, item in found[::5][:4]]
    return [*found[:8], *found[-8:], *((plan, plan.configuration(name)) for plan, name in many)]


def many_classes_and_channels(plan: Plan) -> Plan:
    """The same networks for 60 classes and 4 channels."""
    labels = Labels(classes=tuple(LabelClass(name=f"class_{value}", value=value) for value in range(60)))
    channels = tuple(Channel(name=name) for name in "abcd")
    changed = tuple(
        dataclasses.replace(
            item,
            inputs=(Input(channels=4),),
            normalization=("zscore",) * 4,
            use_mask_for_norm=(False,) * 4,
            target=dataclasses.replace(item.target, num_outputs=60),
        )
        for item in plan.configurations
        if item.previous is None
    )
    return dataclasses.replace(plan, labels=labels, channels=channels, configurations=changed, reasons=())


def saved_by_autograd(plan: Plan, item: Configuration, dtype: torch.dtype) -> int:
    """Bytes that autograd keeps for the backward pass of the reference modules and the loss; nothing is computed.

    Under autocast convolutions and what follows them run in half precision on half-precision copies; networks whose
    weights are half precision keep the same, without the copies.
    """
    with torch.device("meta"):
        network = build_network(item.architecture, item.num_input_channels, item.target.num_outputs).to(dtype)
        image = torch.empty(item.batch_size, item.num_input_channels, *item.patch_size, dtype=dtype)
        label = torch.zeros(item.batch_size, 1, *item.patch_size, dtype=torch.int16)
    counter = SavedBytes(network)
    target = make_target(item.target, plan.labels, item.training)
    outputs = item.architecture.outputs
    with torch.autograd.graph.saved_tensors_hooks(counter.pack, counter.unpack):
        maps, weights = target.encode(label, [output.stride for output in outputs])
        target.loss(network.train()(image), maps, weights, [output.loss_weight for output in outputs])
    return counter.total


def saved_by_arithmetic(item: Configuration, half: bool) -> int:
    network, batch = item.architecture, item.batch_size
    tape = record_step(network, item.patch_size, batch, item.num_input_channels, item.target.num_outputs, half=half)
    weighted = [output for output in network.outputs if output.loss_weight]
    classes = sum(8 * batch * math.prod(item.patch_size) // math.prod(output.stride) for output in weighted)
    return tape.kept_bytes() + classes


def test_what_is_kept_agrees_with_autograd(kept_facts: Facts) -> None:
    """On 20 plans, within 5 % (in fact within 1 %: what norms keep per channel is left out of the arithmetic)."""
    entries = twenty_configurations(kept_facts)
    assert len(entries) == 20
    assert {item.dimensions for _, item in entries} == {2, 3}
    assert {item.architecture.family for _, item in entries} == {"plain-unet", "residual-encoder-unet"}
    assert {1, 4} <= {item.num_input_channels for _, item in entries}
    assert {2, 60} <= {item.target.num_outputs for _, item in entries}
    assert any(len(set(item.architecture.stages[1].stride)) > 1 for _, item in entries)
    for place, (plan, item) in enumerate(entries):
        half = place % 5 == 0  # every fifth in half precision
        found = saved_by_arithmetic(item, half)
        wanted = saved_by_autograd(plan, item, torch.bfloat16 if half else torch.float32)
        assert found == pytest.approx(wanted, rel=0.05), (item.name, item.patch_size, half)


def test_mixed_precision_takes_less_and_work_space_more() -> None:
    network = plain((1, 1, 1), (64, 64, 64))
    arguments = (network, (64, 64, 64), 2, 1, 3)
    mixed, single = step_bytes(*arguments), step_bytes(*arguments, half=False)
    assert 0.5 * single.activations < mixed.activations < 0.52 * single.activations
    assert step_bytes(*arguments, scratch=False).total <= mixed.total < single.total


def test_published_parameter_count() -> None:
    """Six stages in 3D with two input channels: about 30.4 million (nnU-Net v2.8.1)."""
    assert num_parameters(plain((1, 1, 1), (128, 128, 128)), 2, 3) == pytest.approx(30.4e6, rel=0.03)


def test_bytes_grow_with_batch_patch_and_outputs() -> None:
    network = plain((1, 1, 1), (64, 64, 64))

    def total(**changes: Any) -> int:
        given = {"patch_size": (64, 64, 64), "batch_size": 2, "num_input_channels": 1, "num_outputs": 3}
        return step_bytes(network, **{**given, **changes}).total

    base = total()
    assert total(batch_size=3) > base
    assert total(patch_size=(96, 64, 64)) > base
    assert total(num_outputs=40) > base
    assert total(num_input_channels=4) > base


def test_an_output_without_weight_costs_no_loss() -> None:
    network = plain((1, 1, 1), (64, 64, 64))
    *finer, coarsest = network.outputs
    weighed = dataclasses.replace(network, outputs=(*finer, dataclasses.replace(coarsest, loss_weight=0.1)))
    arguments = ((64, 64, 64), 2, 1, 3)
    assert record_step(network, *arguments).kept_bytes() < record_step(weighed, *arguments).kept_bytes()


def test_unknown_family_is_named() -> None:
    strange = dataclasses.replace(tiny(), family="transformer")
    with pytest.raises(PlanError, match=r"'transformer' \(known: plain-unet, residual-encoder-unet\)"):
        feature_map_elements(strange, (8, 8), 2)


def test_plan_and_arithmetic_agree(prostate: Plan) -> None:
    for item in prostate.configurations:
        step = step_bytes(item.architecture, item.patch_size, item.batch_size, 2, 3)
        assert item.estimated_bytes == step.total
