"""The recipe of Cellpose's training and prediction, for ``cellpose_type.py``. Not a script.

Images are grey, from the 1st to the 99th percentile, and brought to objects of 30 pixels: in training by the median
diameter of the label, in prediction by an estimate. Crops of 224² pixels are turned by any angle, mirrored, and scaled
by 0.75 … 1.25. Prediction is by tiles with soft edges; flows go back to the image's own size before they are followed.

Source: Stringer et al., Cellpose (2021), Methods; where it says nothing, the defaults of cellpose 3 (``train_seg``,
``eval``, ``SizeModel``).
"""

import math
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from cellpose_network import CellposeType, learning_rate, loss_of, make_optimizer
from torch import Tensor, nn

from autoseg.targets.decode_flow import FlowOptions, decode_flow
from autoseg.targets.flow_encoding import encode_flow

DIAMETER, CROP, BATCH = 30.0, 224, 8
SCALES = (0.75, 1.25)
LEAST_DIAMETER = 5.0
STYLE_CROPS, STYLE_SCALES, STYLE_RIDGE = 4, (0.5, 1.5), 1.0  # of the size estimate: SizeModel.train
TILE_OVERLAP = 0.1
TAPER = 7.5  # pixels over which a tile's weight falls at its edge


@dataclass(frozen=True, kw_only=True, eq=False)
class Example:
    """One image.

    Attributes:
        case: its id.
        image: grey, y × x, float32, 0 at the 1st and 1 at the 99th percentile.
        ids: of the objects, y × x.
        maps: flow (2), then 1 in objects; × y × x, float32.
        diameter: median over the objects in pixels; None where there are none.
    """

    case: str
    image: Tensor
    ids: np.ndarray
    maps: Tensor
    diameter: float | None


def make_example(case: str, image_CYX: np.ndarray, ids: np.ndarray) -> Example:
    """Normalize an image and encode its objects."""
    grey = image_CYX.astype(np.float32).mean(axis=0)
    low, high = np.percentile(grey, (1, 99)).astype(np.float32)
    grey = (grey - low) / np.maximum(high - low, np.float32(1e-3))
    maps = np.concatenate([encode_flow(ids), (ids > 0)[None].astype(np.float32)])
    return Example(
        case=case,
        image=torch.from_numpy(grey),
        ids=ids,
        maps=torch.from_numpy(maps),
        diameter=median_diameter(ids),
    )


def median_diameter(ids: np.ndarray) -> float | None:
    """Give the median over the objects of the diameter of the circle of equal area."""
    sizes = np.unique(ids, return_counts=True)
    areas = sizes[1][sizes[0] > 0]
    return max(2 * math.sqrt(float(np.median(areas)) / math.pi), LEAST_DIAMETER) if len(areas) else None


def mean_diameter(examples: Sequence[Example]) -> float:
    """Give the mean over the images of their median diameters."""
    return statistics.fmean(item.diameter for item in examples if item.diameter is not None)


@dataclass(frozen=True, kw_only=True)
class Placing:
    """Where a crop lies: the factor by which it is enlarged, its angle, whether it is mirrored, its middle (y, x)."""

    scale: float
    angle: float = 0.0
    mirrored: bool = False
    middle: tuple[float, float]

    @property
    def turn(self) -> np.ndarray:
        """Turns a step of the crop into one of the image, but for the scale."""
        cos, sin = math.cos(self.angle), math.sin(self.angle)
        return np.array([[cos, -sin], [sin, cos]]) @ np.diag([1.0, -1.0 if self.mirrored else 1.0])


def draw_placing(rng: np.random.Generator, shape: Sequence[int], scale: float) -> Placing:
    """Draw a crop that lies in the image as far as it fits, and is moved about where it does not."""
    middle = []
    for side in shape:
        free = (side - CROP / scale) / 2
        middle.append((side - 1) / 2 + rng.uniform(-abs(free), abs(free)))
    return Placing(
        scale=scale,
        angle=rng.uniform(0, 2 * math.pi),
        mirrored=bool(rng.random() < 0.5),
        middle=(middle[0], middle[1]),
    )


def cut(example: Example, placing: Placing, size: int = CROP) -> tuple[Tensor, Tensor]:
    """Cut a crop: image (size × size) and maps (3 × size × size); vectors are turned with it, 0 outside the image."""
    steps = np.arange(size) - (size - 1) / 2
    matrix = placing.turn / placing.scale
    y = placing.middle[0] + matrix[0, 0] * steps[:, None] + matrix[0, 1] * steps
    x = placing.middle[1] + matrix[1, 0] * steps[:, None] + matrix[1, 1] * steps
    height, width = example.image.shape
    grid = np.stack([2 * x / max(width - 1, 1) - 1, 2 * y / max(height - 1, 1) - 1], axis=-1)
    places = torch.from_numpy(grid.astype(np.float32))[None]
    smooth = torch.cat([example.image[None], example.maps[:2]])[None]
    sampled = nn.functional.grid_sample(smooth, places, align_corners=True)[0]
    inside = nn.functional.grid_sample(example.maps[None, 2:], places, mode="nearest", align_corners=True)[0]
    flow = torch.einsum("ji,jyx->iyx", torch.from_numpy(placing.turn.astype(np.float32)), sampled[1:])
    return sampled[0], torch.cat([flow, inside])


def draw_batches(examples: Sequence[Example], steps: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Draw batches: every image once before any comes again, a crop of each."""
    rng, order = np.random.default_rng(seed), list[int]()
    usual = mean_diameter(examples)
    for _ in range(steps):
        crops = []
        for _ in range(BATCH):
            order = order or rng.permutation(len(examples)).tolist()
            example = examples[order.pop()]
            scale = rng.uniform(*SCALES) * DIAMETER / (example.diameter or usual)
            crops.append(cut(example, draw_placing(rng, example.image.shape, scale)))
        images, maps = zip(*crops, strict=True)
        yield torch.stack(images)[:, None], torch.stack(maps)


def train(
    examples: Sequence[Example],
    steps: int,
    seed: int,
    optimizer: str = "adamw",
    device: str = "cpu",
    half: bool = False,
) -> tuple[CellposeType, float]:
    """Train a network; gives it in evaluation mode, and the mean loss of the last tenth of the steps.

    ``half`` computes convolutions in bfloat16: on a CPU that has it more than twice as fast.
    """
    torch.manual_seed(seed)
    network = CellposeType().to(device=device, memory_format=torch.channels_last)
    update, highest = make_optimizer(optimizer, network)
    losses, started = [], time.monotonic()
    for step, (images, maps) in enumerate(draw_batches(examples, steps, seed)):
        for group in update.param_groups:
            group["lr"] = learning_rate(step, steps, highest)
        wanted = maps.to(device)
        with torch.autocast(torch.device(device).type, dtype=torch.bfloat16, enabled=half):
            found, _ = network(images.to(device=device, memory_format=torch.channels_last))
        loss = loss_of(found.float(), wanted[:, :2], wanted[:, 2])
        update.zero_grad()
        loss.backward()
        update.step()
        losses.append(float(loss.detach()))
        if (step + 1) % max(steps // 10, 1) == 0:
            print(f"  step {step + 1}/{steps}: loss {losses[-1]:.3f}, {time.monotonic() - started:.0f} s", flush=True)
    return network.eval(), statistics.fmean(losses[-max(steps // 10, 1) :])


@dataclass(frozen=True, eq=False)
class SizeEstimate:
    """The logarithm of the diameter as a linear function of the style; ``weights`` has the constant last."""

    weights: np.ndarray

    def diameter(self, style: np.ndarray) -> float:
        """Estimate a diameter in pixels from a style (256), not far beyond what was seen."""
        return float(np.exp(np.clip(np.append(style, 1) @ self.weights, math.log(LEAST_DIAMETER), math.log(500))))


def fit_size(network: CellposeType, examples: Sequence[Example], seed: int, device: str = "cpu") -> SizeEstimate:
    """Fit the size estimate on crops of the training images at other scales."""
    rng = np.random.default_rng([seed, 1])
    rows, wanted = [], []
    for example in (item for item in examples if item.diameter is not None):
        scales = rng.uniform(*STYLE_SCALES, STYLE_CROPS)
        crops = [cut(example, draw_placing(rng, example.image.shape, scale))[0] for scale in scales]
        rows.append(_styles(network, torch.stack(crops)[:, None], device))
        wanted += [math.log(scale * float(example.diameter or 0)) for scale in scales]
    table = np.concatenate(rows)
    table = np.concatenate([table, np.ones((len(table), 1))], axis=1)
    target, ridge = np.array(wanted), STYLE_RIDGE * np.eye(table.shape[1])
    ridge[-1, -1] = 0
    return SizeEstimate(np.linalg.solve(table.T @ table + ridge, table.T @ target))


def estimate_diameter(network: CellposeType, size: SizeEstimate, example: Example, device: str = "cpu") -> float:
    """Estimate twice: by the image's style, then by the median of what is found at that size."""
    tiles, _ = _tiles(example.image)
    first = size.diameter(_styles(network, tiles[:, None], device).mean(axis=0))
    return median_diameter(segment(network, example, first, device=device)) or first


def segment(
    network: CellposeType, example: Example, diameter: float, *, mirrored: bool = False, device: str = "cpu"
) -> np.ndarray:
    """Find the objects of an image, given their diameter in pixels.

    Args:
        network: as trained.
        example: its image alone is looked at.
        diameter: the image is enlarged such that this becomes ``DIAMETER``.
        mirrored: average the maps over the image and its mirror images (the published way of test augmentation).
        device: of the network.

    Returns:
        Ids y × x, int32.
    """
    scale = DIAMETER / diameter
    shape = [max(round(side * scale), 8) for side in example.image.shape]
    image = nn.functional.interpolate(example.image[None, None], size=shape, mode="bilinear")[0, 0]
    found = torch.zeros(3, *shape)
    axes_of = [(), (0,), (1,), (0, 1)] if mirrored else [()]
    for axes in axes_of:
        maps = _maps(network, image.flip(axes), device).flip([axis + 1 for axis in axes])
        for axis in axes:
            maps[axis] *= -1
        found += maps / len(axes_of)
    found = nn.functional.interpolate(found[None], size=example.image.shape, mode="bilinear")[0]
    chance = torch.sigmoid(found[2]).numpy()
    steps = max(round(200 / scale), 1)
    options = FlowOptions(foreground=0.5, steps=steps, least_points=10, largest_error=0.4, smallest=15)
    return decode_flow(found[:2].numpy() / 5, chance, options)


@torch.inference_mode()
def _maps(network: CellposeType, image: Tensor, device: str) -> Tensor:
    """Predict tile by tile and put them together with soft edges."""
    tiles, corners = _tiles(image)
    steps = torch.arange(CROP) - (CROP - 1) / 2
    edge = torch.sigmoid((CROP / 2 - 20 - steps.abs()) / TAPER)
    weight = edge[:, None] * edge
    shape = [max(side, CROP) for side in image.shape]
    total, weights = torch.zeros(3, *shape), torch.zeros(shape)
    for start in range(0, len(tiles), BATCH):
        some = tiles[start : start + BATCH, None].to(device=device, memory_format=torch.channels_last)
        for (y, x), maps in zip(corners[start : start + BATCH], network(some)[0].float().cpu(), strict=True):
            total[:, y : y + CROP, x : x + CROP] += maps * weight
            weights[y : y + CROP, x : x + CROP] += weight
    return (total / weights)[:, : image.shape[0], : image.shape[1]]


def _tiles(image: Tensor) -> tuple[Tensor, list[tuple[int, int]]]:
    """Cut an image into tiles that overlap by a tenth at least; a smaller one is padded with 0."""
    image = nn.functional.pad(image, (0, max(CROP - image.shape[1], 0), 0, max(CROP - image.shape[0], 0)))
    starts = []
    for side in image.shape:
        count = 1 if side == CROP else math.ceil((1 + 2 * TILE_OVERLAP) * side / CROP)
        starts.append(np.linspace(0, side - CROP, count).round().astype(int).tolist())
    corners = [(y, x) for y in starts[0] for x in starts[1]]
    return torch.stack([image[y : y + CROP, x : x + CROP] for y, x in corners]), corners


@torch.inference_mode()
def _styles(network: CellposeType, tiles: Tensor, device: str) -> np.ndarray:
    parts = [network(tiles[start : start + BATCH].to(device))[1].float().cpu() for start in range(0, len(tiles), BATCH)]
    return torch.cat(parts).numpy().astype(np.float64)
