"""The residual-encoder U-Net in two and three dimensions, from its Architecture record.

Source: Isensee et al. 2024, "nnU-Net Revisited" (MICCAI); form and initialisation of nnU-Net v2.8.1.
"""

from collections import OrderedDict
from itertools import pairwise

from torch import nn

from autoseg.networks.blocks import ConvBlock, ResidualBlock
from autoseg.networks.unet import UNet, check_architecture
from planners.plan import Architecture, Stage


def residual_encoder_unet(architecture: Architecture, num_input_channels: int, num_outputs: int) -> nn.Module:
    """Build the residual-encoder U-Net: ``num_blocks`` residual blocks per encoder stage, the first with the stride.

    ``encoder.0.stem`` is one convolution block of the first stage's width and kernel; everything else is named and
    computed as in the plain U-Net. At the start every residual block passes its shortcut on: scale and shift of its
    second norm are 0.

    Raises:
        ModelError: the architecture is not possible.
    """
    check_architecture(architecture)
    finest = architecture.stages[0]
    stem = ConvBlock(num_input_channels, finest.features, finest.kernel, (1,) * architecture.dimensions)
    encoder = [nn.Sequential(OrderedDict([("stem", stem), *_blocks(finest.features, finest)]))]
    for stage, deeper in pairwise(architecture.stages):
        encoder.append(nn.Sequential(OrderedDict(_blocks(stage.features, deeper))))
    network = UNet(encoder, architecture, num_outputs)
    for module in network.modules():
        if isinstance(module, ResidualBlock):
            nn.init.zeros_(module.second.norm.weight)
            nn.init.zeros_(module.second.norm.bias)
    return network


def _blocks(num_inputs: int, stage: Stage) -> list[tuple[str, nn.Module]]:
    """One stage's blocks by name; the first takes ``num_inputs`` channels and has the stride."""
    ones = (1,) * len(stage.stride)
    first = ResidualBlock(num_inputs, stage.features, stage.kernel, stage.stride)
    rest = (ResidualBlock(stage.features, stage.features, stage.kernel, ones) for _ in range(stage.num_blocks - 1))
    return [(str(index), block) for index, block in enumerate((first, *rest))]
