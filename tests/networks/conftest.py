"""Small architectures, and the two ways to compute them."""

from collections.abc import Callable

import pytest

from autoseg import native
from planners.plan import Architecture, Output, Stage


@pytest.fixture(autouse=True)
def quiet(one_thread: None) -> None:
    """All tests here compute on one thread."""


@pytest.fixture
def compiled():
    """The test needs the compiled operators."""
    if native.kernels().library is None:
        pytest.skip(f"no compiled operators: {native.kernels().reason}")


@pytest.fixture(scope="session")
def make_architecture() -> Callable[..., Architecture]:
    """Give a function that makes a U-Net's record from features, strides and kernels."""

    def make(features, strides, kernels=None, blocks=2, decoder_blocks=2):
        dimensions = len(strides[0])
        kernels = kernels or [(3,) * dimensions] * len(features)
        stages = tuple(
            Stage(features=width, kernel=tuple(kernel), stride=tuple(stride), num_blocks=blocks)
            for width, kernel, stride in zip(features, kernels, strides, strict=True)
        )
        outputs, total = [], (1,) * dimensions
        for stage in stages[: max(len(stages) - 1, 1)]:
            total = tuple(a * b for a, b in zip(total, stage.stride, strict=True))
            outputs.append(Output(stride=total, loss_weight=1.0))
        return Architecture(
            family="plain-unet",
            dimensions=dimensions,
            stages=stages,
            num_decoder_blocks=(decoder_blocks,) * (len(stages) - 1),
            outputs=tuple(outputs),
        )

    return make
