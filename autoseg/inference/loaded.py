"""A case on its way through a folder's prediction: between reading, network and writing."""

import contextlib
from typing import NamedTuple

from autoseg.data.cases import Case
from autoseg.data.io import Geometry, Image
from autoseg.inference.confidence import WatchedCase
from autoseg.preprocessing.preprocess import PreprocessedCase


class About(NamedTuple):
    """What is known of an image beside its voxels.

    Attributes:
        geometry: as read.
        warnings: what is unfamiliar about it.
        held: gives back the memory that is held for the case.
        watched: for the predicted Dice, of a case in slabs, whose file is written already.
    """

    geometry: Geometry
    warnings: tuple[str, ...]
    held: contextlib.ExitStack
    watched: WatchedCase | None = None


class Loaded(NamedTuple):
    """A case that is ready for the network: preprocessed, or opened where it goes in slabs."""

    about: About
    case: Case
    image: list[PreprocessedCase] | Image
