"""Networks as torch modules, built from Architecture records; their weights on disk."""

from collections.abc import Callable, Mapping

import torch
from torch import nn

from autoseg.extensions import find
from autoseg.networks.checkpoint import check_weights, load_weights, put_weights, save_weights
from autoseg.networks.residual import residual_encoder_unet
from autoseg.networks.unet import plain_unet
from planners.network_size import PLAIN_UNET, RESIDUAL_ENCODER_UNET
from planners.plan import Architecture

__all__ = ["NETWORKS", "build_network", "check_weights", "load_weights", "put_weights", "save_weights"]

NETWORKS: Mapping[str, Callable[[Architecture, int, int], nn.Module]] = {
    PLAIN_UNET: plain_unet,
    RESIDUAL_ENCODER_UNET: residual_encoder_unet,
}
"""By family. A builder takes the architecture, the number of input channels and the number of output channels; the
module's ``forward`` gives a list of logits, full resolution first, and only that one in evaluation mode."""


def build_network(
    architecture: Architecture, num_input_channels: int, num_outputs: int, seed: int | None = None
) -> nn.Module:
    """Build a network on the CPU, initialised.

    Args:
        architecture: the network as data.
        num_input_channels: channels of the input.
        num_outputs: channels of every output.
        seed: draws the same weights each time, and leaves the global generator as it was; None draws from that one.

    Raises:
        OptionError: no network of that family is known.
        ModelError: the architecture is not possible.
    """
    builder = find(NETWORKS, "network", architecture.family)
    if seed is None:
        return builder(architecture, num_input_channels, num_outputs)
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(seed)
        return builder(architecture, num_input_channels, num_outputs)
