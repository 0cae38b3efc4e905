"""Small configurations and networks for the tests of inference."""

from collections.abc import Callable

import pytest
import torch

from planners.plan import (
    Architecture,
    Configuration,
    Input,
    Output,
    Resampling,
    Stage,
    Target,
    Training,
)


@pytest.fixture(autouse=True)
def one_thread():
    """Tests share the machine; small convolutions gain nothing from threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def make_configuration() -> Callable[..., Configuration]:
    """Give a function that makes a configuration of two stages from a few values."""

    def make(
        patch: tuple[int, ...],
        *,
        output: tuple[int, ...] | None = None,
        num_channels: int = 1,
        num_outputs: int = 3,
        mirror_axes: tuple[int, ...] | None = None,
        spacing_mm: tuple[float, ...] | None = None,
        name: str = "tiny",
    ) -> Configuration:
        dimensions = len(patch)
        ones, twos, threes = (1,) * dimensions, (2,) * dimensions, (3,) * dimensions
        divisible = all(size % 2 == 0 for size in patch)
        architecture = Architecture(
            family="plain-unet",
            dimensions=dimensions,
            stages=(
                Stage(features=4, kernel=threes, stride=ones, num_blocks=1),
                Stage(features=8, kernel=threes, stride=twos if divisible else ones, num_blocks=1),
            ),
            num_decoder_blocks=(1,),
            outputs=(Output(stride=ones, loss_weight=1.0),),
        )
        return Configuration(
            name=name,
            inputs=(Input(channels=num_channels),),
            spacing_mm=spacing_mm or (1.0,) * dimensions,
            median_shape=tuple(float(size) for size in patch),
            patch_size=patch,
            output_size=output or patch,
            batch_size=2,
            normalization=("zscore",) * num_channels,
            use_mask_for_norm=(False,) * num_channels,
            resampling=Resampling(),
            target=Target(name="semantic", num_outputs=num_outputs),
            architecture=architecture,
            training=Training(mirror_axes=tuple(range(dimensions)) if mirror_axes is None else mirror_axes),
            estimated_bytes=0,
        )

    return make
