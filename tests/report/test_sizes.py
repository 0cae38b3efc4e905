"""Sizes: volumes from counts and spacings, ranks as scipy has them, few or absent cases left out."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from autoseg.report.material import gather
from autoseg.report.sizes import rank_correlation, size_section, voxel_sizes
from autoseg.run_folder import RunFolder


@pytest.mark.parametrize("seed", range(5))
def test_rank_correlation_equals_scipys(seed: int) -> None:
    rng = np.random.default_rng(seed)
    first, second = rng.integers(0, 12, (2, 30)).astype(float)  # with ties
    expected = stats.spearmanr(first, second).statistic
    assert rank_correlation(first.tolist(), second.tolist()) == pytest.approx(expected, abs=1e-12)


def test_equal_values_have_no_correlation() -> None:
    assert rank_correlation([1, 2, 3], [0.5, 0.5, 0.5]) is None


def test_sizes_are_millilitres_square_millimetres_or_voxels(make_run: Callable[..., RunFolder]) -> None:
    solid = gather(make_run(num_cases=3, num_epochs=2, folder="solid"))
    assert voxel_sizes(solid) == ({f"case_{i:03d}": 1.5e-3 for i in range(3)}, "ml")
    flat = gather(make_run(num_cases=3, num_epochs=2, folder="flat", shape=(1, 40, 40), configurations=("2d",)))
    assert voxel_sizes(flat) == ({f"case_{i:03d}": 1.0 for i in range(3)}, "mm²")
    bare = replace(solid, fingerprint=None)
    assert voxel_sizes(bare) == ({}, "voxels")
    section = size_section(bare)
    assert section is not None
    assert "size in the label, voxels" in section.panels[0].drawing


def test_structures_in_too_few_labels_are_left_out(make_run: Callable[..., RunFolder]) -> None:
    material = gather(make_run(num_cases=10, num_epochs=2))
    assert material.scores is not None
    rows = [
        replace(row, num_labelled=(row.num_labelled[0], row.num_labelled[1] * (index < 2)))
        for index, row in enumerate(material.scores.cases)
    ]
    section = size_section(replace(material, scores=replace(material.scores, cases=tuple(rows))))
    assert section is not None
    assert [panel.name for panel in section.panels] == ["anterior"]
    assert "10 cases; rank correlation" in section.panels[0].note
    assert size_section(replace(material, scores=None)) is None
