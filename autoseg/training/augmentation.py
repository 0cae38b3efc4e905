"""The training augmentation: its parameters are drawn first, then applied to a batch on its device.

| row             | probability       | parameters                                                               |
|-----------------|-------------------|--------------------------------------------------------------------------|
| rotation        | 0.2               | an angle per axis within ± ``rotation_radians``; in plane: one           |
| scaling         | 0.2               | 0.7 to 1.4, the same along all axes                                      |
| noise           | 0.1               | sigma 0 to 0.1, the same for all channels                                |
| blur            | 0.2, channel 0.5  | sigma 0.5 to 1 voxels per channel and axis                               |
| brightness      | 0.15              | factor per channel: half of them 0.75 to 1, half 1 to 1.25               |
| contrast        | 0.15              | the same                                                                 |
| low resolution  | 0.25, channel 0.5 | zoom 0.5 to 1 per channel (in plane: not along axis 0)                   |
| inverted gamma  | 0.1               | power per channel: half of them 0.7 to 1, half 1 to 1.5                  |
| gamma           | 0.3               | the same                                                                 |
| mirroring       | 0.5 per axis      |                                                                          |
| masking         | always            | channels normalized inside the mask only become 0 outside it             |
| shape changes   | 0.4, label 0.5    | dilation, erosion, closing or opening with a ball of radius 1 to 8 voxels|
| lost components | 0.2, label 0.5    | one of those that cover less than 0.15 of the patch                      |

The last two change the previous segmentation of a cascade, the first of them label after label in random order.

Mirroring is applied together with rotation and scaling, before the intensities: no row but low resolution can tell the
difference, and that one is told which axes are mirrored.

Source: Isensee et al. 2021 (nnU-Net), Supplementary Note 4; probabilities and ranges as in nnU-Net v2.8.1.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from autoseg.training import intensity
from autoseg.training.morphology import LARGEST_RADIUS, OPERATIONS, ShapeChange, change_shapes, remove_components
from autoseg.training.spatial import affine_matrix
from planners.plan import Configuration

ROTATION = SCALING = 0.2
SCALES = (0.7, 1.4)
NOISE = 0.1
NOISE_SIGMAS = (0.0, 0.1)
BLUR, BLUR_CHANNEL = 0.2, 0.5
BLUR_SIGMAS = (0.5, 1.0)
BRIGHTNESS = CONTRAST = 0.15
FACTORS = (0.75, 1.25)
LOW_RESOLUTION, LOW_RESOLUTION_CHANNEL = 0.25, 0.5
ZOOMS = (0.5, 1.0)
INVERTED_GAMMA, GAMMA = 0.1, 0.3
GAMMAS = (0.7, 1.5)
MIRROR = 0.5
SHAPES, SHAPES_LABEL = 0.4, 0.5
RADII = (1.0, LARGEST_RADIUS)
LOST, LOST_LABEL = 0.2, 0.5

PerChannel = tuple[float | None, ...]


@dataclass(frozen=True, kw_only=True)
class SampleParameters:
    """What happens to one sample; the defaults change nothing. Axes are z, y, x, also in 2D.

    Attributes:
        angles: radians about axes 0, 1, 2, or one in the plane of axes 1 and 2; empty where not rotated.
        scale: voxels of the case per voxel of the patch.
        mirror: axes to mirror.
        noise_sigma: standard deviation, or None.
        noise_seed: of the noise field.
        blur_sigmas: per channel, a sigma per axis in voxels, or None. This and what follows is empty where it does not
            happen.
        brightness, contrast: per channel, a factor.
        zooms: per channel, the part of the voxels per axis that low resolution keeps, or None.
        inverted_gamma, gamma: per channel, a power.
        shape_changes: of labels of the previous segmentation, in their order.
        lost_components: class index of the previous segmentation, and a number from 0 to 1 that picks the component.
    """

    angles: tuple[float, ...] = ()
    scale: float = 1.0
    mirror: tuple[int, ...] = ()
    noise_sigma: float | None = None
    noise_seed: int = 0
    blur_sigmas: tuple[tuple[float, float, float] | None, ...] = ()
    brightness: tuple[float, ...] = ()
    contrast: tuple[float, ...] = ()
    zooms: tuple[tuple[float, float, float] | None, ...] = ()
    inverted_gamma: tuple[float, ...] = ()
    gamma: tuple[float, ...] = ()
    shape_changes: tuple[ShapeChange, ...] = ()
    lost_components: tuple[tuple[int, float], ...] = ()

    def matrix(self, planar: bool) -> np.ndarray | None:
        """Give the matrix of rotation, scaling and mirroring, or None where the patch is only cut out and mirrored."""
        if not self.angles and self.scale == 1.0:
            return None
        first = 1 if planar else 0
        mirror = [axis - first for axis in self.mirror if axis >= first]
        return affine_matrix(self.angles or (0.0,) * (1 if planar else 3), self.scale, mirror)


def draw_parameters(rng: np.random.Generator, configuration: Configuration) -> SampleParameters:
    """Draw what happens to one sample.

    Args:
        rng: the sample's own generator.
        configuration: whose ``training.augmentation`` and mirror axes hold. Where augmentation is not enabled, nothing
            happens.
    """
    if not configuration.training.augmentation.enabled:
        return SampleParameters()
    flat, augmentation = configuration.dimensions == 2, configuration.training.augmentation
    channels = range(len(configuration.use_mask_for_norm))
    draw = _Draw(rng)
    limit = augmentation.rotation_radians
    num_angles = 1 if flat or augmentation.in_plane else 3
    angles = tuple(draw.between(-limit, limit) for _ in range(num_angles)) if draw.happens(ROTATION) else ()
    scale = draw.between(*SCALES) if draw.happens(SCALING) else 1.0
    sigma = draw.between(*NOISE_SIGMAS) if draw.happens(NOISE) else None
    sigmas = tuple(draw.blur_sigmas(flat) for _ in channels) if draw.happens(BLUR) else ()
    brightness = tuple(draw.around_one(*FACTORS) for _ in channels) if draw.happens(BRIGHTNESS) else ()
    contrast = tuple(draw.around_one(*FACTORS) for _ in channels) if draw.happens(CONTRAST) else ()
    keep_axis = flat or augmentation.in_plane
    zooms = tuple(draw.zooms(keep_axis) for _ in channels) if draw.happens(LOW_RESOLUTION) else ()
    inverted_gamma = tuple(draw.around_one(*GAMMAS) for _ in channels) if draw.happens(INVERTED_GAMMA) else ()
    gamma = tuple(draw.around_one(*GAMMAS) for _ in channels) if draw.happens(GAMMA) else ()
    first = 3 - configuration.dimensions
    return SampleParameters(
        angles=angles,
        scale=scale,
        mirror=tuple(axis + first for axis in configuration.training.mirror_axes if draw.happens(MIRROR)),
        noise_sigma=sigma,
        noise_seed=int(rng.integers(2**63)),  # from here on, a cascade draws what others do not
        shape_changes=draw.shape_changes(configuration.num_previous_channels),
        lost_components=draw.lost_components(configuration.num_previous_channels),
        blur_sigmas=sigmas,
        brightness=brightness,
        contrast=contrast,
        zooms=zooms,
        inverted_gamma=inverted_gamma,
        gamma=gamma,
    )


class _Draw:
    """Numbers of one generator, in the shapes that the table names."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.random, self.integers, self.permutation = rng.random, rng.integers, rng.permutation

    def happens(self, probability: float) -> bool:
        return self.random() < probability

    def between(self, low: float, high: float) -> float:
        return low + (high - low) * self.random()

    def around_one(self, low: float, high: float) -> float:
        return self.between(low, 1.0) if self.happens(0.5) else self.between(1.0, high)

    def blur_sigmas(self, flat: bool) -> tuple[float, float, float] | None:
        if not self.happens(BLUR_CHANNEL):
            return None
        z, y, x = (self.between(*BLUR_SIGMAS) for _ in range(3))
        return (z, y, x)

    def zooms(self, keep_axis: bool) -> tuple[float, float, float] | None:
        if not self.happens(LOW_RESOLUTION_CHANNEL):
            return None
        zoom = self.between(*ZOOMS)
        return (1.0 if keep_axis else zoom, zoom, zoom)

    def shape_changes(self, num_labels: int) -> tuple[ShapeChange, ...]:
        if not num_labels or not self.happens(SHAPES):
            return ()
        chosen = [int(index) + 1 for index in self.permutation(num_labels) if self.happens(SHAPES_LABEL)]
        operations = [tuple(OPERATIONS)[int(self.integers(len(OPERATIONS)))] for _ in chosen]
        return tuple(
            ShapeChange(label=label, operation=operation, radius=self.between(*RADII))
            for label, operation in zip(chosen, operations, strict=True)
        )

    def lost_components(self, num_labels: int) -> tuple[tuple[int, float], ...]:
        if not num_labels or not self.happens(LOST):
            return ()
        return tuple((label, self.random()) for label in range(1, num_labels + 1) if self.happens(LOST_LABEL))


def apply(
    image_BCZYX: Tensor, label_BLZYX: Tensor, parameters: Sequence[SampleParameters], mask_channels: Sequence[int]
) -> None:
    """Change the intensities of a batch whose patches are rotated, scaled and mirrored already. Works in place.

    Args:
        image_BCZYX: float32.
        label_BLZYX: integers; layer 0 is below 0 outside the mask.
        parameters: one per sample.
        mask_channels: channels that become 0 outside the mask.
    """
    for image, item in zip(image_BCZYX, parameters, strict=True):
        if item.noise_sigma is not None:
            intensity.add_noise(image, item.noise_sigma, item.noise_seed)
    rows = _Rows(image_BCZYX, parameters)
    rows.change(lambda item: item.blur_sigmas, lambda x, values, _: intensity.blur(x, values))
    rows.change(lambda item: item.brightness, lambda x, values, _: intensity.multiply(x, values))
    rows.change(lambda item: item.contrast, lambda x, values, _: intensity.change_contrast(x, values))
    rows.change(lambda item: item.zooms, intensity.lower_resolution)
    rows.change(lambda item: item.inverted_gamma, lambda x, values, _: intensity.change_gamma(x, values, inverted=True))
    rows.change(lambda item: item.gamma, lambda x, values, _: intensity.change_gamma(x, values, inverted=False))
    if mask_channels:
        outside = label_BLZYX[:, 0] < 0
        for channel in mask_channels:
            image_BCZYX[:, channel].masked_fill_(outside, 0.0)


def apply_to_previous(layer_BZYX: Tensor, parameters: Sequence[SampleParameters], *, planar: bool) -> None:
    """Change the previous segmentations of a batch as if another first stage had made them. Works in place.

    Args:
        layer_BZYX: inner class indices, integers, 0 or above.
        parameters: one per sample.
        planar: shapes change in the plane of axes 1 and 2 only, as rotation and scaling do.
    """
    for layer, item in zip(layer_BZYX, parameters, strict=True):
        change_shapes(layer, item.shape_changes, planar=planar)
        remove_components(layer, item.lost_components)


class _Rows:
    """The channels of all samples of a batch, of which every step changes some."""

    def __init__(self, image_BCZYX: Tensor, parameters: Sequence[SampleParameters]) -> None:
        self.x_BZYX = image_BCZYX.view(-1, *image_BCZYX.shape[2:])  # never a copy: rows are changed in place
        self.num_channels = image_BCZYX.shape[1]
        self.parameters = parameters

    def change(self, choose: Callable[[SampleParameters], tuple], step: Callable[[Tensor, list, list], None]) -> None:
        """Apply a step to the rows for which ``choose`` has a parameter.

        Args:
            choose: gives a sample's parameters per channel (None: leave it), or nothing.
            step: changes rows in place, given their parameters and the axes along which each is mirrored.
        """
        rows, values, mirrored = [], [], []
        for sample, item in enumerate(self.parameters):
            for channel, value in enumerate(choose(item)):
                if value is not None:
                    rows.append(sample * self.num_channels + channel)
                    values.append(value)
                    mirrored.append(item.mirror)
        if not rows:
            return
        if rows[-1] - rows[0] + 1 == len(rows):
            step(self.x_BZYX[rows[0] : rows[-1] + 1], values, mirrored)  # neighbours: no copy
        else:
            chosen = self.x_BZYX[rows]
            step(chosen, values, mirrored)
            self.x_BZYX[rows] = chosen
