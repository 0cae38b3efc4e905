"""A network of Cellpose's type, for ``cellpose_type.py``: a residual U-Net with a style vector. Not a script.

Four levels down and up; each is two residual pairs of 3×3 convolutions with batch normalization and ReLU before the
convolution. The way up adds the features of the way down instead of joining them, and each of its convolutions is told
the image's style: the mean of the deepest features over the image, of length 1.

Source: Stringer et al., Cellpose: a generalist algorithm for cellular segmentation (2021), Methods, model architecture.
"""

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

FEATURES = (32, 64, 128, 256)
OUTPUTS = 3  # flow along y, flow along x, logit of the foreground


class CellposeType(nn.Module):
    """Gives maps B × 3 × y × x and the style B × 256; sides must be multiples of 8."""

    def __init__(self, channels: int = 1, features: Sequence[int] = FEATURES, outputs: int = OUTPUTS) -> None:
        super().__init__()
        widths = [channels, *features]
        self.down = nn.ModuleList(_Down(*pair) for pair in itertools.pairwise(widths))
        up = [*features, features[-1]]
        self.up = nn.ModuleList(_Up(low, high, features[-1]) for high, low in itertools.pairwise(up))
        self.pool = nn.MaxPool2d(2)
        self.enlarge = nn.Upsample(scale_factor=2, mode="nearest")
        self.last = _convolution(features[0], outputs, 1)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        levels = []
        for block in self.down:
            levels.append(block(self.pool(levels[-1]) if levels else image))
        style = nn.functional.normalize(levels[-1].mean((2, 3)), dim=1)
        result = levels[-1]
        for depth in reversed(range(len(levels))):
            if depth < len(levels) - 1:
                result = self.enlarge(result)
            result = self.up[depth](result, levels[depth], style)
        return self.last(result), style


class _Down(nn.Module):
    """Two residual pairs; the first adds a 1×1 convolution of its input."""

    def __init__(self, channels: int, features: int) -> None:
        super().__init__()
        self.shortcut = _shortcut(channels, features)
        self.first = nn.Sequential(_convolution(channels, features), _convolution(features, features))
        self.second = nn.Sequential(_convolution(features, features), _convolution(features, features))

    def forward(self, features: Tensor) -> Tensor:
        result = self.shortcut(features) + self.first(features)
        return result + self.second(result)


class _Up(nn.Module):
    """The same on the way up: the skipped features and the style are added on the way."""

    def __init__(self, channels: int, features: int, style: int) -> None:
        super().__init__()
        self.shortcut = _shortcut(channels, features)
        self.first = _convolution(channels, features)
        self.styled = nn.ModuleList(_Styled(features, style) for _ in range(3))

    def forward(self, features: Tensor, skipped: Tensor, style: Tensor) -> Tensor:
        result = self.shortcut(features) + self.styled[0](self.first(features) + skipped, style)
        return result + self.styled[2](self.styled[1](result, style), style)


class _Styled(nn.Module):
    def __init__(self, features: int, style: int) -> None:
        super().__init__()
        self.shift = nn.Linear(style, features)
        self.convolution = _convolution(features, features)

    def forward(self, features: Tensor, style: Tensor) -> Tensor:
        return self.convolution(features + self.shift(style)[:, :, None, None])


def _convolution(channels: int, features: int, kernel: int = 3) -> nn.Sequential:
    convolution = nn.Conv2d(channels, features, kernel, padding=kernel // 2)
    return nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU(), convolution)


def _shortcut(channels: int, features: int) -> nn.Sequential:
    return nn.Sequential(nn.BatchNorm2d(channels), nn.Conv2d(channels, features, 1))


def loss_of(maps: Tensor, flow: Tensor, inside: Tensor) -> Tensor:
    """Half the squared error of five times the flow, plus the cross-entropy of the foreground.

    Args:
        maps: of the network, B × 3 × y × x.
        flow: unit vectors, B × 2 × y × x.
        inside: 1 in objects, B × y × x.
    """
    vectors = nn.functional.mse_loss(maps[:, :2], 5 * flow)
    return vectors / 2 + nn.functional.binary_cross_entropy_with_logits(maps[:, 2], inside)


def learning_rate(step: int, steps: int, highest: float) -> float:
    """Give the rate of a step: rising over the first 2 %, halved ten times over the last 20 % of the steps.

    The published schedule (10 and the last 100 of 500 epochs) in proportion, so that short trainings have it too.
    """
    rise, fall = 0.02 * steps, 0.8 * steps
    if step < rise:
        return highest * (step + 1) / (rise + 1)
    return highest * 0.5 ** (0 if step < fall else 1 + int(10 * (step - fall) / (steps - fall)))


def make_optimizer(name: str, network: nn.Module) -> tuple[torch.optim.Optimizer, float]:
    """Make the optimizer and tell its highest learning rate.

    Source: ``sgd``: Stringer et al. 2021, Methods, training; ``adamw``: the defaults of cellpose 3, train_seg.
    """
    if name == "sgd":
        return torch.optim.SGD(network.parameters(), lr=0.2, momentum=0.9, weight_decay=1e-5), 0.2
    return torch.optim.AdamW(network.parameters(), lr=0.005, weight_decay=1e-5), 0.005
