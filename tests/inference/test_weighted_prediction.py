"""New images are segmented with the weights of the choice."""

import dataclasses

import numpy as np
import pytest

from autoseg.data.io import image_from_array
from autoseg.errors import ModelError
from autoseg.evaluation.postprocessing import REMOVE_SMALL, Postprocessing
from autoseg.evaluation.selection import Choice
from autoseg.inference.export import segment
from autoseg.inference.model import digest_of, select
from autoseg.inference.predictor import Predictor
from planners.plan import Plan


def image(seed: int = 0):
    array = np.random.default_rng(seed).normal(size=(10, 12, 11)).astype(np.float32)
    return image_from_array(array, (1.0, 1.0, 1.0))


def set_weights(run, weights) -> None:
    run.write(dataclasses.replace(run.read(Choice, run.choice_file), weights=weights), run.choice_file)


def test_probabilities_are_averaged_by_the_weights(make_run, tmp_path) -> None:
    run = make_run((8, 8, 8), (8, 8), choice={"configurations": ("3d", "2d1")})
    set_weights(run, (0.2, 0.8))
    predictor = Predictor(run.root, device="cpu")
    parts = predictor.logits(predictor.read(image()))
    assert [part.weight for part in parts] == [0.2, 0.8]
    segmentation = predictor.segment(parts, tmp_path / "p.npy")
    own = [predictor.target.probabilities(part.onto((10, 12, 11), (1.0,) * 3).slab(0, 10)) for part in parts]
    expected = 0.2 * own[0] + 0.8 * own[1]
    np.testing.assert_allclose(np.load(tmp_path / "p.npy"), expected, atol=1e-3)
    classes = predictor.plan.labels.encode(segmentation)
    clear = np.sort(expected, axis=0)
    sure = clear[-1] - clear[-2] > 1e-5
    assert sure.mean() > 0.99
    assert np.array_equal(classes[sure], expected.argmax(axis=0)[sure])
    set_weights(run, (0.5, 0.5))
    equal = Predictor(run.root, device="cpu")
    assert not np.array_equal(equal.predict(image()), segmentation)
    assert [part.weight for part in equal.logits(equal.read(image()))] == [1.0, 1.0]


def test_weights_are_part_of_a_models_identity_and_name(make_run) -> None:
    run = make_run((8, 8, 8), (8, 8), choice={"configurations": ("3d", "2d1")})
    plan = run.read(Plan, run.plan_file)
    digests, names = [], []
    for weights in ((), (0.5, 0.5), (0.2, 0.8), (0.8, 0.2)):
        set_weights(run, weights)
        selection = select(run, plan)
        digests.append(digest_of(selection, plan))
        names.append(selection.name)
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3
    assert names[0] == names[1] == "3d + 2d1, 4 networks"
    assert names[2] == "3d + 2d1, 4 networks, weighted 1 : 4"


@pytest.mark.parametrize("weights", [(0.2, 0.3, 0.5), (-1.0, 2.0), (0.0, 1.0)])
def test_impossible_weights_are_refused(weights, make_run) -> None:
    run = make_run((8, 8, 8), (8, 8), choice={"configurations": ("3d", "2d1")})
    set_weights(run, weights)
    with pytest.raises(
        ModelError, match=r"choice\.json: weights are \[.*\] for 2 configurations\. Give each a positive"
    ):
        select(run, run.read(Plan, run.plan_file))


@pytest.mark.parametrize("spacing", [1.0, 2.0])
def test_sizes_in_the_postprocessing_are_of_the_images_voxels(spacing, make_run) -> None:
    """Everything smaller than 6 mm³ goes: of voxels of 1 mm³ five, of those of 8 mm³ none."""
    rule = Postprocessing(rule=REMOVE_SMALL, name="all", classes=(1, 2), size_mm3=6.0)
    run = make_run((8, 8, 8), choice={"postprocessing": (rule,)})
    predictor = Predictor(run.root, device="cpu")
    opened = image_from_array(np.zeros((10, 12, 11), dtype=np.float32), (spacing,) * 3)
    (part,) = predictor.logits(predictor.read(opened))
    logits = np.zeros((3, *part.grid.shape), dtype=np.float32)
    logits[0] = 1.0
    scale = int(spacing)  # the grid has voxels of 1 mm
    for start, width in ((1, 5), (7, 2)):
        logits[1, scale : 2 * scale, scale : 2 * scale, start * scale : (start + width) * scale] = 5.0
    before = segment([dataclasses.replace(part, logits_KZYX=logits)], predictor.target, predictor.plan)
    assert [int((before[..., low:high] > 0).sum()) for low, high in ((0, 6), (6, 11))] == [5, 2]
    after = predictor.plan.labels.encode(predictor.segment([dataclasses.replace(part, logits_KZYX=logits)]))
    assert int((after > 0).sum()) == (0 if spacing == 1.0 else 7)
