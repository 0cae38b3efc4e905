"""From probabilities of inner part and boundary back to objects: seeds, and a flood that grows them.

Objects are never the components of a map alone: there one wrong voxel joins two of them. Everything works on whole
arrays; the flood visits each voxel a few times, wave by wave.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy

from autoseg.targets.flooding import find_seeds, flood
from autoseg.targets.object_maps import OpenSides, drop_small


@dataclass(frozen=True, kw_only=True)
class WatershedOptions:
    """How boundary maps are decoded; what a run tunes on out-of-fold predictions.

    Attributes:
        seed: the inner part must be so much more probable than boundary to belong to a seed.
        foreground: probability above which a voxel belongs to some object; 0: every voxel does (dense tissue).
        smallest: voxels of the smallest object that is kept.
        bridge: voxels across, up to which a bridge between two seeds joins them not.
    """

    seed: float = 0.0
    foreground: float = 0.5
    smallest: int = 1
    bridge: int = 1


def decode_boundary(
    inner: np.ndarray,
    boundary: np.ndarray,
    options: WatershedOptions | None = None,
    spacing: Sequence[float] | None = None,
    open_sides: OpenSides | None = None,
) -> np.ndarray:
    """Find the objects in probabilities of their inner parts and boundaries.

    Args:
        inner, boundary: probabilities, (z, y, x) or (y, x); what they leave to 1 is background's.
        options: see there; None: its defaults.
        spacing: per axis, in any unit; None: equal.
        open_sides: of a block of an image; small objects that reach such a side are kept.

    Returns:
        int32 map of the objects 1, 2, …, 0 for background.
    """
    options = options or WatershedOptions()
    seeds, _ = find_seeds(inner - boundary > options.seed, options.bridge, spacing)
    mask = inner + boundary > options.foreground if options.foreground > 0 else np.ones(inner.shape, dtype=bool)
    return drop_small(flood(1 - inner, seeds, mask), options.smallest, open_sides)


def decode_components(
    foreground: np.ndarray, options: WatershedOptions | None = None, open_sides: OpenSides | None = None
) -> np.ndarray:
    """Call every component (joined by faces or edges) of what is foreground an object: touching ones are one."""
    options = options or WatershedOptions()
    found, _ = scipy.ndimage.label(
        foreground > options.foreground, scipy.ndimage.generate_binary_structure(foreground.ndim, 2)
    )
    return drop_small(found.astype(np.int32, copy=False), options.smallest, open_sides)
