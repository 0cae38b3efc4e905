"""The network of Cellpose's type in ``benchmarks/``: its shapes; crops and tiles turn vectors as they should."""

import importlib
import itertools
import math
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from autoseg.targets.flow_encoding import encode_flow

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def recipe(monkeypatch: pytest.MonkeyPatch, one_thread: None) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("cellpose_recipe")


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch, one_thread: None) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("cellpose_network")


def discs(shape: tuple[int, int] = (90, 120)) -> np.ndarray:
    """Draw two ellipses side by side and one alone."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    ids = np.zeros(shape, dtype=np.int32)
    for number, (cy, cx, ry, rx) in enumerate([(30, 30, 14, 18), (33, 65, 16, 17), (65, 95, 12, 15)], start=1):
        ids[(((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 < 1) & (ids == 0)] = number
    return ids


@pytest.mark.parametrize("shape", [(32, 40), (64, 64)])
def test_network_gives_three_maps_and_a_style_of_length_one(network: ModuleType, shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    made = network.CellposeType(features=(4, 8, 8, 16)).eval()
    with torch.inference_mode():
        maps, style = made(torch.randn(2, 1, *shape))
    assert maps.shape == (2, 3, *shape)
    assert style.shape == (2, 16)
    torch.testing.assert_close(style.norm(dim=1), torch.ones(2))


def test_published_network_has_the_weights_that_the_paper_describes(network: ModuleType) -> None:
    def convolution(channels: int, features: int, kernel: int = 3) -> int:
        return 2 * channels + kernel**2 * channels * features + features  # batch normalization, weights, bias

    widths, deepest = (2, 32, 64, 128, 256), 256
    expected = convolution(32, 3, 1)
    for low, high in itertools.pairwise(widths):
        expected += convolution(low, high, 1) + convolution(low, high) + 3 * convolution(high, high)
    for low, high in zip((64, 128, 256, 256), widths[1:], strict=True):
        expected += convolution(low, high, 1) + convolution(low, high) + 3 * convolution(high, high)
        expected += 3 * (deepest + 1) * high  # the style's shifts
    made = network.CellposeType(channels=2)
    assert sum(item.numel() for item in made.parameters()) == expected


def test_every_weight_is_used(network: ModuleType) -> None:
    torch.manual_seed(0)
    made = network.CellposeType(features=(4, 8, 8, 16))
    maps, _ = made(torch.randn(2, 1, 16, 16))
    network.loss_of(maps, torch.randn(2, 2, 16, 16), torch.ones(2, 16, 16)).backward()
    assert all(item.grad is not None for item in made.parameters())


def test_learning_rate_rises_and_falls(network: ModuleType) -> None:
    rates = [network.learning_rate(step, 500, 0.2) for step in range(500)]
    assert rates[0] < 0.05
    assert rates[10:400] == [0.2] * 390
    assert rates[400] == 0.1
    assert rates[499] == pytest.approx(0.2 / 2**10)
    assert all(0 < network.learning_rate(step, 3, 1.0) <= 1 for step in range(3))


def test_a_crop_of_scale_one_is_the_image(recipe: ModuleType) -> None:
    ids = discs((64, 64))
    example = recipe.make_example("a", ids[None].astype(np.float32), ids)
    image, maps = recipe.cut(example, recipe.Placing(scale=1.0, middle=(31.5, 31.5)), size=64)
    torch.testing.assert_close(image, example.image, atol=1e-4, rtol=0)
    torch.testing.assert_close(maps, example.maps, atol=1e-3, rtol=0)


@pytest.mark.parametrize("angle", [0.0, math.pi / 2, 0.7])
@pytest.mark.parametrize("mirrored", [False, True])
def test_turned_vectors_are_those_of_the_turned_objects(recipe: ModuleType, angle: float, mirrored: bool) -> None:
    ids = discs()
    example = recipe.make_example("a", ids[None].astype(np.float32), ids)
    placing = recipe.Placing(scale=1.2, angle=angle, mirrored=mirrored, middle=(45.0, 60.0))
    _, maps = recipe.cut(example, placing, size=160)
    # The ids themselves, cut alike one by one, and encoded anew
    turned = np.zeros((160, 160), dtype=np.int32)
    for number in (1, 2, 3):
        alone = recipe.make_example("b", ids[None].astype(np.float32), np.where(ids == number, number, 0))
        turned[recipe.cut(alone, placing, size=160)[1][2].numpy() > 0.5] = number
    np.testing.assert_array_equal(maps[2].numpy() > 0.5, turned > 0)
    wanted, found = encode_flow(turned), maps[:2].numpy()
    lengths = np.linalg.norm(found, axis=0) * np.linalg.norm(wanted, axis=0)
    agree = (wanted * found).sum(0)[lengths > 0.1] / lengths[lengths > 0.1]
    assert (agree > 0.9).mean() > 0.97


class _Knowing(torch.nn.Module):
    """Finds the maps of the ids that the image consists of."""

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        maps = []
        for image in images[:, 0]:
            ids = image.round().int().numpy()
            maps.append(np.concatenate([5 * encode_flow(ids), np.where(ids > 0, 6.0, -6.0)[None]]))
        return torch.from_numpy(np.stack(maps)).float(), torch.ones(len(images), 4)


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("shape", [(90, 120), (90, 300)])
def test_tiles_and_mirror_images_give_the_objects_back(
    recipe: ModuleType, mirrored: bool, shape: tuple[int, int]
) -> None:
    ids = discs(shape)
    example = recipe.make_example("a", ids[None], ids)
    same = recipe.Example(
        case="a", image=torch.from_numpy(ids).float(), ids=ids, maps=example.maps, diameter=example.diameter
    )
    found = recipe.segment(_Knowing(), same, recipe.DIAMETER, mirrored=mirrored)
    assert found.max() == 3
    assert (found > 0).sum() == pytest.approx((ids > 0).sum(), rel=0.02)


def test_size_estimate_learns_from_the_style(recipe: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """A style that tells the brightness of the crop: larger objects, brighter crop."""
    monkeypatch.setattr(recipe, "_styles", lambda network, tiles, device: tiles.mean((2, 3)).numpy() * [[100.0]])
    examples = [
        recipe.make_example(str(side), np.pad(np.ones((1, side, side)), ((0, 0), (40, 40), (40, 40))),
                            np.pad(np.ones((side, side), dtype=np.int32), 40))
        for side in (10, 20, 30, 40)
    ]  # fmt: skip
    size = recipe.fit_size(None, examples, seed=0)
    guesses = [size.diameter(recipe._styles(None, item.image[None, None], "cpu")[0]) for item in examples]
    assert guesses == sorted(guesses)
    assert guesses[-1] > 1.5 * guesses[0]


def test_median_diameter(recipe: ModuleType) -> None:
    ids = np.zeros((40, 40), dtype=np.int32)
    ids[:10, :10], ids[20:30, 20:30] = 4, 9
    assert recipe.median_diameter(ids) == pytest.approx(2 * math.sqrt(100 / math.pi))
    assert recipe.median_diameter(ids * 0) is None
