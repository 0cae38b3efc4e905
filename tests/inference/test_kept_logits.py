"""Kept logits: what comes back decodes as what was kept, slab by slab as at once, and damage is noticed."""

import numpy as np
import pytest
from scipy import ndimage

from autoseg.errors import RunFolderError
from autoseg.inference import kept_logits
from autoseg.inference.export import average
from autoseg.inference.kept_logits import KeptLogits, keep_logits
from autoseg.preprocessing.resampling import LogitsResampler
from autoseg.targets import make_target
from planners.labels import LabelClass, Labels, Region
from planners.plan import Resampling, Target, Training

CLASSES = tuple(LabelClass(name=str(value), value=value) for value in range(4))
LABELS = Labels(classes=CLASSES)
REGIONS = Labels(classes=CLASSES, regions=tuple(Region(name=str(i), values=tuple(range(i, 4))) for i in range(1, 4)))


def smooth(seed: int, shape: tuple[int, ...], strength: float = 12.0, sigma: float = 3.0) -> np.ndarray:
    """Logits like a network's: smooth maps, far apart inside of structures, with a little noise."""
    rng = np.random.default_rng(seed)
    maps = np.stack([ndimage.gaussian_filter(rng.normal(size=shape[1:]), sigma) for _ in range(shape[0])])
    maps *= strength / maps.std()
    return (maps + 0.1 * rng.normal(size=shape)).astype(np.float32)


def target_of(labels: Labels):
    name = "regions" if labels.regions else "semantic"
    outputs = len(labels.regions) or labels.num_classes
    return make_target(Target(name=name, num_outputs=outputs), labels, Training())


@pytest.fixture(params=["semantic", "regions"])
def target(request):
    return target_of(REGIONS if request.param == "regions" else LABELS)


def test_ensembles_decode_as_from_the_logits_themselves(target, tmp_path) -> None:
    """Two networks that mostly agree, as sure as real ones: the mean Dice differs by less than 1 in 10,000."""
    differing, dice, voxels = 0, [], 0
    for seed in range(4):
        outputs = 3 if target.labels.regions else 4
        first = smooth(seed, (outputs, 24, 40, 36), strength=30.0)
        parts = [first, first + smooth(100 + seed, first.shape, strength=2.0)]
        label = target.decode(first + smooth(200 + seed, first.shape, strength=2.0))
        kept = []
        for index, part in enumerate(parts):
            path = tmp_path / f"{seed}_{index}.logits"
            keep_logits(path, part, relative=target.relative)
            kept.append(KeptLogits(path).read())
            assert np.array_equal(target.decode(kept[-1]), target.decode(part)), "alone it decodes exactly alike"
        maps = [
            target.decode_probabilities(average([target.probabilities(item) for item in some], (1.0, 1.0)))
            for some in (parts, kept)
        ]
        differing, voxels = differing + int((maps[0] != maps[1]).sum()), voxels + label.size
        dice.append([mean_dice(found, label) for found in maps])
    assert differing < 3e-4 * voxels
    means = np.mean(dice, axis=0)
    assert abs(means[0] - means[1]) < 1e-4
    assert 0.5 < means[0] < 0.99, "the ensembles are neither useless nor trivial"


def mean_dice(segmentation: np.ndarray, label: np.ndarray) -> float:
    pairs = [(segmentation == index, label == index) for index in range(1, 4)]
    return float(np.mean([2 * (a & b).sum() / max(a.sum() + b.sum(), 1) for a, b in pairs]))


@pytest.mark.parametrize("relative", [True, False])
def test_errors_are_small_where_probabilities_change(relative, tmp_path) -> None:
    values = np.concatenate([np.linspace(-60, 60, 4001), [0.0, -0.0, 1e-6, -1e-6]]).astype(np.float32)
    logits = np.stack([values, np.zeros_like(values)]).reshape(2, 1, 1, -1)
    keep_logits(tmp_path / "a", logits, relative=relative)
    found = KeptLogits(tmp_path / "a").read()
    ours, theirs = (item - item.max(axis=0) if relative else item for item in (found, logits))
    near = np.abs(theirs) < 1
    assert np.abs(ours - theirs)[near].max() < (0.02 if relative else 0.04)
    far = ~near & (np.abs(theirs) < 60)
    assert (np.abs(ours - theirs)[far] / np.abs(theirs[far])).max() < (0.02 if relative else 0.04)
    probabilities = [1 / (1 + np.exp(item[1] - item[0])) for item in (found.astype(float), logits.astype(float))]
    assert np.abs(probabilities[0] - probabilities[1]).max() < (0.004 if relative else 0.007)
    assert np.array_equal(np.sign(ours), np.sign(theirs))


def test_slices_come_alone_as_they_come_together(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(kept_logits, "SLAB_BYTES", 3 * 2 * 6 * 7)  # two slices
    logits = smooth(0, (3, 9, 6, 7), sigma=1.0)
    keep_logits(tmp_path / "a", logits, relative=True)
    kept = KeptLogits(tmp_path / "a")
    whole = kept.read()
    assert (kept.shape, len(kept), whole.dtype) == ((3, 9, 6, 7), 3, np.float32)
    for start in range(9):
        for stop in range(start + 1, 10):
            assert np.array_equal(kept.rows(start, stop), whole[:, start:stop])
    monkeypatch.undo()
    keep_logits(tmp_path / "b", logits, relative=True)
    assert np.array_equal(KeptLogits(tmp_path / "b").read(), whole)


@pytest.mark.parametrize(
    ("shape", "spacing", "order"),
    [((9, 6, 7), 1.0, 1), ((15, 6, 7), 0.6, 1), ((4, 9, 5), 2.25, 1), ((17, 8, 7), 9 / 17, 0), ((15, 6, 7), 0.6, 0)],
)
def test_resampling_from_the_file_equals_resampling_from_memory(shape, spacing, order, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(kept_logits, "SLAB_BYTES", 3 * 2 * 6 * 7)
    keep_logits(tmp_path / "a", smooth(1, (3, 9, 6, 7), sigma=1.0), relative=True)
    kept, resampling = KeptLogits(tmp_path / "a"), Resampling(logits_order=order)
    sides = (1.0, 1.0, 1.0), (spacing, 1.0, 1.0)
    streamed, whole = (LogitsResampler(logits, shape, *sides, resampling) for logits in (kept, kept.read()))
    for start in range(0, shape[0], 3):
        stop = min(start + 3, shape[0])
        np.testing.assert_array_equal(streamed.slab(start, stop), whole.slab(start, stop))


def test_files_are_much_smaller_than_half_precision(tmp_path) -> None:
    logits = smooth(2, (14, 24, 40, 36))
    keep_logits(tmp_path / "a", logits, relative=True)
    assert (tmp_path / "a").stat().st_size < 0.4 * 2 * logits.size


def test_constant_logits_are_kept(tmp_path) -> None:
    for relative in (True, False):
        keep_logits(tmp_path / "a", np.zeros((2, 1, 3, 3), dtype=np.float32), relative=relative)
        assert not KeptLogits(tmp_path / "a").read().any()


@pytest.mark.parametrize("damage", ["missing", "cut", "changed", "other", "empty"])
def test_a_damaged_file_says_what_to_do(damage, tmp_path) -> None:
    path = tmp_path / "case.logits"
    keep_logits(path, smooth(3, (3, 5, 6, 7), sigma=1.0), relative=True)
    content = path.read_bytes()
    broken = {
        "cut": content[:-20],
        "changed": content[:-60] + bytes(40) + content[-20:],
        "other": b'{"format": "x"}\n',
        "empty": b"",
    }
    path.unlink()
    if damage in broken:
        path.write_bytes(broken[damage])
    with pytest.raises(RunFolderError, match=r"case\.logits is no whole file of logits .* run the same command again"):
        KeptLogits(path).read()
