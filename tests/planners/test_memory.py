import dataclasses
from typing import Any

import pytest

from planners.memory import BYTES_PER_PARAMETER, step_bytes
from planners.network_size import feature_map_elements, num_parameters
from planners.plan import Architecture, Output, Plan, Stage
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
    fine, coarse, voxels = 8 * 8 * 2, 4 * 4 * 3, 64
    found = step_bytes(tiny(), (8, 8), batch_size=3, num_input_channels=1, num_outputs=5)
    kept = 2 * (4 * fine + coarse)  # convolution and activation of every block
    assert found.activations == 3 * (2 * (kept + 2 * fine) + voxels * (4 + 2))
    assert found.parameters == BYTES_PER_PARAMETER * num_parameters(tiny(), 1, 5)
    assert found.loss == 3 * (5 * voxels * (2 + 4 * 4) + 8 * voxels)
    assert found.transient == 3 * 3 * 2 * fine
    assert found.total == found.parameters + found.activations + found.loss + found.transient


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
    assert step_bytes(network, *arguments).loss < step_bytes(weighed, *arguments).loss


def test_unknown_family_is_named() -> None:
    strange = dataclasses.replace(tiny(), family="transformer")
    with pytest.raises(PlanError, match=r"'transformer' \(known: plain-unet\)"):
        feature_map_elements(strange, (8, 8), 2)


def test_plan_and_arithmetic_agree(prostate: Plan) -> None:
    for item in prostate.configurations:
        step = step_bytes(item.architecture, item.patch_size, item.batch_size, 2, 3)
        assert item.estimated_bytes == step.total
