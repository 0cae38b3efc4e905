"""U-Nets in two and three dimensions, from their Architecture records: the decoder that all share, the plain encoder.

Sources: Ronneberger et al. 2015; Çiçek et al. 2016; form and initialisation of nnU-Net v2.8.1 (Isensee et al. 2021).
"""

from collections.abc import Iterable, Sequence
from itertools import accumulate, pairwise

import torch
from torch import Tensor, nn

from autoseg.errors import ModelError
from autoseg.networks.blocks import NEGATIVE_SLOPE, ConvBlock, Head, UpsampleJoin
from planners.plan import Architecture, Stage


class UNet(nn.Module):
    """An encoder, a decoder with skips, and one 1 × 1 head per output.

    Everything is counted from full resolution: ``encoder.S``, ``upsample.S``, ``decoder.S``, ``heads.S`` belong to
    stage S. A network of one stage has no decoder; its head sits on the encoder.
    """

    def __init__(self, encoder: Iterable[nn.Module], architecture: Architecture, num_outputs: int) -> None:
        """Put a decoder behind an encoder.

        Args:
            encoder: one module per stage of the architecture, full resolution first.
            architecture: as :func:`check_architecture` allows.
            num_outputs: channels of every output.
        """
        super().__init__()
        stages = architecture.stages
        ones = (1,) * architecture.dimensions
        self.encoder = nn.ModuleList(encoder)
        self.upsample = nn.ModuleList(
            UpsampleJoin(deeper.features, stage.features, deeper.stride) for stage, deeper in pairwise(stages)
        )
        self.decoder = nn.ModuleList(
            convolutions(2 * stage.features, stage, count, ones)
            for stage, count in zip(stages, architecture.num_decoder_blocks, strict=False)
        )
        self.heads = nn.ModuleList(
            Head(stage.features, num_outputs, architecture.dimensions)
            for stage in stages[: max(len(architecture.outputs), 1)]
        )
        self.apply(_initialise)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Give the logits of all outputs, full resolution first; in evaluation mode of the full resolution alone.

        Args:
            x: (batch, channels, [z,] y, x); every edge divisible by the product of the strides along it.
        """
        if not (self.training or torch.is_grad_enabled()):
            return [self._predict(x)]
        skips = []
        for blocks in self.encoder:
            x = blocks(x)
            skips.append(x)
        logits: list[Tensor] = []
        features = {len(skips) - 1: x}
        for index in reversed(range(len(self.decoder))):
            x = self.decoder[index](self.upsample[index](x, skips[index]))
            features[index] = x
        for index, head in enumerate(self.heads if self.training else list(self.heads)[:1]):
            logits.append(head(features[index]))
        return logits

    def _predict(self, x: Tensor) -> Tensor:
        """Give the logits of the full resolution, every map freed with its last use.

        In ``forward`` the joined maps of a stage live until its last convolution is done, and the skip until the end:
        half as much memory again.
        """
        skips: list[Tensor] = []
        for index, blocks in enumerate(self.encoder):
            for block in _blocks(blocks):
                x = block(x)
            if index < len(self.decoder):
                skips.append(x)
        for upsample, blocks in zip(reversed(self.upsample), reversed(self.decoder), strict=True):
            x = upsample(x, skips.pop())
            for block in _blocks(blocks):
                x = block(x)
        logits: Tensor = self.heads[0](x)
        return logits


def plain_unet(architecture: Architecture, num_input_channels: int, num_outputs: int) -> nn.Module:
    """Build the plain U-Net: ``num_blocks`` convolutions per encoder stage, the first with the stride.

    Raises:
        ModelError: the architecture is not possible.
    """
    check_architecture(architecture)
    channels = [num_input_channels, *(stage.features for stage in architecture.stages)]
    stages = zip(channels, architecture.stages, strict=False)
    encoder = (convolutions(inputs, stage, stage.num_blocks, stage.stride) for inputs, stage in stages)
    return UNet(encoder, architecture, num_outputs)


def convolutions(num_inputs: int, stage: Stage, count: int, stride: Sequence[int]) -> nn.Sequential:
    """``count`` blocks of one stage; the first takes ``num_inputs`` channels and has the stride."""
    ones = (1,) * len(stage.kernel)
    return nn.Sequential(
        *(
            ConvBlock(stage.features if index else num_inputs, stage.features, stage.kernel, ones if index else stride)
            for index in range(count)
        )
    )


def _blocks(stage: nn.Module) -> Iterable[nn.Module]:
    """One after the other, so that the caller alone holds what each is given; an encoder may be made of other parts."""
    return stage if isinstance(stage, nn.Sequential) else (stage,)


def _initialise(module: nn.Module) -> None:
    """Kaiming normal for the leaky ReLU's slope, bias 0 (nnU-Net v2.8.1); norms keep scale 1 and shift 0."""
    if isinstance(module, nn.Conv2d | nn.Conv3d | nn.ConvTranspose2d | nn.ConvTranspose3d):
        if not module.weight.is_meta:  # there torch would load its compiler, for seconds, to draw nothing
            nn.init.kaiming_normal_(module.weight, a=NEGATIVE_SLOPE)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def check_architecture(architecture: Architecture) -> None:
    """Check what a U-Net of any encoder asks of its record.

    Raises:
        ModelError: there is an option, or an output that the decoder does not have.
    """
    family, stages, outputs = architecture.family, architecture.stages, architecture.outputs
    if architecture.options:
        raise ModelError(f"{family} has no option {min(architecture.options)!r}; remove it from the plan")
    strides = accumulate(
        (stage.stride for stage in stages), lambda total, step: tuple(a * b for a, b in zip(total, step, strict=True))
    )
    possible = list(strides)[: max(len(stages) - 1, 1)]
    found = [output.stride for output in outputs]
    if found != possible[: len(found)]:
        raise ModelError(
            f"{family} cannot give outputs with strides {found}; its decoder has {possible}. "
            "Outputs are listed from full resolution down, without gaps"
        )
