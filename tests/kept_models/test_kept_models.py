"""Models of every released format open, and predict what they predicted then."""

from pathlib import Path

import numpy as np
import pytest

from autoseg import __version__
from autoseg.data.io import open_label
from autoseg.inference.predictor import predict_folder

HERE = Path(__file__).parent
KEPT = sorted(path.parent for path in HERE.glob("*/*/run"))
ALLOWED = 0.001
"""Part of the voxels that may differ: another version of torch, or another processor, rounds otherwise."""


@pytest.mark.parametrize("kept", KEPT, ids=lambda path: f"{path.parent.name}-{path.name}")
@pytest.mark.parametrize("form", ["run", "bundle"])
def test_a_kept_model_predicts_as_it_did(kept: Path, form: str, tmp_path: Path) -> None:
    model = kept / "run" if form == "run" else kept / f"{kept.name}.autoseg"
    (written,) = predict_folder(model, kept / "images", tmp_path, device="cpu")
    then, now = open_label(kept / "segmentations" / written.name).read(), open_label(written).read()
    assert then.shape == now.shape
    assert then.dtype == now.dtype
    assert len(np.unique(then)) > 2  # it had learnt something: background alone would always agree
    assert np.mean((then > 0) != (now > 0)) <= ALLOWED
    assert np.mean(then != now) <= ALLOWED


def test_this_version_has_its_kept_models() -> None:
    """A release without them could break them unseen: ``python tests/kept_models/make.py`` makes them."""
    assert {path.name for path in KEPT if path.parent.name == __version__} == {"classes", "objects"}
