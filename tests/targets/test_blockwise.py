"""Decoding in blocks: an object cut by a border is one object, and what is apart stays apart."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from autoseg.targets.blockwise import cut_blocks, decode_blocks, match_pieces
from autoseg.targets.decode_flow import decode_flow
from autoseg.targets.decode_watershed import decode_boundary
from autoseg.targets.flow_encoding import encode_flow
from autoseg.targets.instance_encoding import BOUNDARY, INNER, encode_boundary
from autoseg.targets.object_maps import OpenSides


def components(maps: np.ndarray, sides: OpenSides) -> np.ndarray:
    return ndimage.label(maps[0] > 0.5)[0]


@pytest.mark.parametrize("shape", [(50,), (37, 41), (9, 20, 21)])
def test_blocks_tile_the_image(shape: tuple[int, ...]) -> None:
    counts = np.zeros(shape, dtype=int)
    for block in cut_blocks(shape, (8,) * len(shape), 3):
        counts[tuple(slice(*ends) for ends in block.inner)] += 1
        assert all(0 <= o <= a < b <= p <= n for (a, b), (o, p), n in zip(block.inner, block.outer, shape, strict=True))
        assert all(b - a <= 8 for a, b in block.inner)
    assert (counts == 1).all()


@pytest.mark.parametrize("margin", [2, 6, 15])
def test_components_in_blocks_are_components(margin: int, same_objects: Callable[..., Any]) -> None:
    """Even objects much longer than a block, across borders and corners."""
    ids = np.zeros((70, 80), dtype=int)
    ids[3:60, 5:9], ids[56:60, 5:70], ids[20:24, 12:75] = 1, 1, 2
    diagonal = np.abs(np.subtract.outer(np.arange(70), np.arange(80))) < 2
    ids[diagonal & (ids == 0)] = 3
    ids[0, 79] = 4
    expected, count = ndimage.label(ids > 0)
    found = decode_blocks((ids > 0)[None] * 1.0, components, (16, 16), margin)
    assert same_objects(found, expected)
    assert found.max() == count


@pytest.mark.parametrize("seed", range(3))
def test_an_object_cut_by_a_border_is_one_object(
    seed: int,
    one_thread: None,
    ellipses: Callable[..., Any],
    precision: Callable[..., Any],
    same_objects: Callable[..., Any],
) -> None:
    ids = ellipses((100, 110), 35, 9, seed=seed)
    maps = encode_boundary(ids)
    stack = np.stack([maps == INNER, maps == BOUNDARY]).astype(np.float32)
    whole = decode_boundary(*stack)
    found = decode_blocks(stack, lambda part, sides: decode_boundary(*part, open_sides=sides), (36, 36), 30)
    assert same_objects(found, whole)
    flow = np.concatenate([encode_flow(ids), (ids > 0)[None]]).astype(np.float32)
    whole = decode_flow(flow[:2], flow[2])
    found = decode_blocks(flow, lambda part, sides: decode_flow(part[:2], part[2], open_sides=sides), (36, 36), 40)
    assert found.max() == whole.max()
    assert precision(whole, found, 0.95)[0] == 1


def test_three_dimensions_and_a_map_on_disk(
    tmp_path: object, ellipses: Callable[..., Any], same_objects: Callable[..., Any]
) -> None:
    ids = ellipses((20, 44, 40), 30, 7, seed=9)
    maps = encode_boundary(ids)
    stack = np.stack([maps == INNER, maps == BOUNDARY]).astype(np.float32)
    asked: list[int] = []

    class Slow:
        shape = stack.shape

        def __getitem__(self, part: tuple[slice, ...]) -> np.ndarray:
            asked.append(stack[part].size)
            return stack[part]

    result = np.zeros(ids.shape, dtype=np.uint16)
    found = decode_blocks(
        Slow(), lambda part, sides: decode_boundary(*part, open_sides=sides), (12, 20, 20), 16, result
    )
    assert found is result
    assert same_objects(found, decode_boundary(*stack))
    assert max(asked) < stack.size, "never the whole image at once"


def test_sides_are_open_where_the_image_goes_on() -> None:
    seen: list[Sequence[tuple[bool, bool]]] = []

    def decode(maps: np.ndarray, sides: OpenSides) -> np.ndarray:
        seen.append(list(sides))
        return np.zeros(maps.shape[1:], dtype=np.int32)

    assert not decode_blocks(np.zeros((1, 40, 10)), decode, (20, 20), 4).any()
    assert seen == [[(False, True), (False, False)], [(True, False), (False, False)]]


def test_pieces_match_where_each_is_the_others_largest_partner() -> None:
    first = np.array([[5, 5, 5, 5, 0, 6, 6, 6]])
    second = np.array([[9, 9, 9, 8, 8, 7, 0, 0]])
    nothing = np.array([], dtype=int)
    assert match_pieces(first, second, nothing).tolist() == [[5, 6], [9, 7]]
    assert match_pieces(first, second, np.array([8])).tolist() == [[5, 5, 6], [8, 9, 7]], "8 may be a part of 5"
    assert match_pieces(first * 0, second, nothing).shape == (2, 0)
