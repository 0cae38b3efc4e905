"""The contract of targets and losses, over their tables."""

import numpy as np
import pytest
import torch

from autoseg.targets import LOSSES, TARGETS, Target, make_target
from planners.labels import LabelClass, Labels
from planners.plan import Target as TargetRecord
from planners.plan import Training

CLASSES = tuple(LabelClass(name=f"class {index}", value=index * 10) for index in range(4))
LABELS = Labels(classes=CLASSES)
WITH_IGNORE = Labels(classes=CLASSES, ignore=255)
STRIDES = [(1, 1, 1), (2, 2, 2), (2, 4, 4)]
SHARES = [0.6, 0.4, 0.0]


def target(name: str, labels: Labels = LABELS, **training: object) -> Target:
    record = TargetRecord(name=name, num_outputs=TARGETS[name].num_outputs(labels, {}))
    return make_target(record, labels, Training(**training))  # type: ignore[arg-type]


def random_label(seed: int, highest: int = 3, shape: tuple[int, ...] = (4, 8, 12)) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-1, highest + 1, (2, 1, *shape), generator=generator, dtype=torch.int16)


def random_outputs(seed: int, num_outputs: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = [[size // step for size, step in zip((4, 8, 12), stride, strict=True)] for stride in STRIDES]
    return [torch.randn(2, num_outputs, *shape, generator=generator, requires_grad=True) for shape in shapes]


@pytest.mark.parametrize("name", TARGETS)
def test_decoding_what_was_encoded_gives_the_label(name: str) -> None:
    label, made = random_label(0), target(name)
    (classes,), _ = made.encode(label, [(1, 1, 1)])
    logits = torch.nn.functional.one_hot(classes, made.record.num_outputs).movedim(-1, 1).float() * 8
    for sample in range(2):
        expected = label[sample, 0].clamp(min=0).numpy()
        np.testing.assert_array_equal(made.decode(logits[sample].numpy()), expected)
        np.testing.assert_array_equal(made.decode_probabilities(made.probabilities(logits[sample].numpy())), expected)


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("axes", [(0,), (1, 2), (0, 1, 2)])
def test_encoding_a_mirrored_label_is_mirroring_the_maps(name: str, axes: tuple[int, ...]) -> None:
    label, made = random_label(1), target(name)
    mirrored = label.flip([axis + 2 for axis in axes])
    plain, _ = made.encode(label, [(1, 1, 1)])
    turned, _ = made.encode(mirrored, [(1, 1, 1)])
    for sample in range(2):
        assert torch.equal(made.flip(plain[0][sample][None], axes)[0], turned[0][sample])


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("batch_dice", [False, True])
def test_ignored_voxels_change_nothing(name: str, loss: str, batch_dice: bool) -> None:
    made = target(name, WITH_IGNORE, loss=loss, batch_dice=batch_dice)
    label = random_label(2, highest=4)
    ignored = label == WITH_IGNORE.ignore_index
    gradients, losses, counts = [], [], []
    outputs = random_outputs(3, made.record.num_outputs)
    for shift in (0.0, 5.0):
        moved = []
        for output, stride in zip(outputs, STRIDES, strict=True):
            cells = (slice(None), slice(None), *(slice(step // 2, None, step) for step in stride))
            here = ignored[cells].expand_as(output)
            moved.append((output.detach() + shift * here * torch.arange(4).view(1, 4, 1, 1, 1)).requires_grad_())
        maps, weights = made.encode(label, STRIDES)
        value = made.loss(moved, maps, weights, SHARES)
        value.backward()
        assert moved[0].grad is not None
        assert not moved[0].grad[ignored.expand_as(moved[0])].any()
        gradients.append(moved[0].grad[~ignored.expand_as(moved[0])])
        losses.append(value.detach())
        counts.append(torch.stack(made.counts(moved[0].detach(), label)))
    assert torch.allclose(losses[0], losses[1])
    assert torch.allclose(gradients[0], gradients[1], atol=1e-8)
    assert torch.equal(counts[0], counts[1])


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("value", [0, -1, 4])
def test_a_patch_without_foreground_is_finite(name: str, loss: str, value: int) -> None:
    made = target(name, WITH_IGNORE, loss=loss)
    label = torch.full((2, 1, 4, 8, 12), value, dtype=torch.int16)
    outputs = random_outputs(4, made.record.num_outputs)
    result = made.loss(outputs, *made.encode(label, STRIDES), SHARES)
    result.backward()
    assert torch.isfinite(result)
    assert outputs[0].grad is not None
    assert torch.isfinite(outputs[0].grad).all()
    assert outputs[2].grad is None, "an output of weight 0 is not computed"


def reference_loss(logits: torch.Tensor, classes: torch.Tensor, batch_dice: bool) -> torch.Tensor:
    """Dice and cross-entropy written out from their definitions, with one-hot maps in float64."""
    logits = logits.double()
    truth = torch.nn.functional.one_hot(classes, logits.shape[1]).movedim(-1, 1).double()
    probability = logits.softmax(1)
    entropy = -(truth * probability.log()).sum(1).mean()
    axes = (0, 2, 3, 4) if batch_dice else (2, 3, 4)
    both, either = (probability * truth).sum(axes), probability.sum(axes) + truth.sum(axes)
    return entropy - ((2 * both + 1e-5) / (either + 1e-5))[..., 1:].mean()


@pytest.mark.parametrize("batch_dice", [False, True])
def test_dice_and_cross_entropy_equal_their_definitions(batch_dice: bool) -> None:
    made = target("semantic", batch_dice=batch_dice)
    outputs, label = random_outputs(5, 4), random_label(6)
    maps, weights = made.encode(label, STRIDES)
    expected = sum(
        share * reference_loss(output, classes, batch_dice)
        for output, classes, share in zip(outputs, maps, SHARES, strict=True)
    )
    found = made.loss(outputs, maps, weights, SHARES)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)
    gradient = torch.autograd.grad(found, outputs[0])[0]
    wanted = torch.autograd.grad(expected, outputs[0])[0]
    torch.testing.assert_close(gradient, wanted, rtol=1e-4, atol=1e-8)


def test_a_perfect_prediction_comes_near_minus_one() -> None:
    made, label = target("semantic"), random_label(7, highest=3)
    maps, weights = made.encode(label, STRIDES[:1])
    logits = torch.nn.functional.one_hot(maps[0], 4).movedim(-1, 1).float() * 50
    assert made.loss([logits], maps, weights, [1.0]).item() == pytest.approx(-1, abs=1e-5)


def test_the_middle_of_each_cell_is_taken() -> None:
    label = torch.arange(8, dtype=torch.int16).view(1, 1, 1, 1, 8).clamp(max=3)
    maps, _ = target("semantic").encode(label.repeat(1, 1, 2, 2, 1), [(1, 1, 4), (2, 2, 2)])
    expected = torch.nn.functional.interpolate(label.float(), size=(1, 1, 2), mode="nearest-exact").long()[0, 0]
    assert torch.equal(maps[0][0, :1, :1], expected)
    assert maps[1].shape == (1, 1, 1, 4)


def test_counts_and_score_name_absent_classes() -> None:
    made = target("semantic")
    label = torch.zeros(1, 1, 2, 2, 2, dtype=torch.int16)
    label[..., 0, :] = 1
    logits = torch.zeros(1, 4, 2, 2, 2)
    logits[:, 1, ..., 0, 0] = 5
    logits[:, 2, ..., 1, 0] = 5
    counts = made.counts(logits, label)
    assert [item.tolist() for item in counts] == [[2, 0, 0], [0, 2, 0], [2, 0, 0]]
    assert made.score(*counts) == [pytest.approx(2 / 3), 0.0, None]


@pytest.mark.parametrize("name", TARGETS)
def test_two_dimensional_tensors_need_no_z(name: str) -> None:
    made = target(name, loss="dice+cross-entropy")
    label = torch.randint(0, 4, (3, 1, 8, 8), dtype=torch.int16)
    maps, weights = made.encode(label, [(1, 1), (2, 2)])
    outputs = [torch.randn(3, 4, 8, 8), torch.randn(3, 4, 4, 4)]
    assert torch.isfinite(made.loss(outputs, maps, weights, [0.7, 0.3]))


def test_probabilities_are_a_distribution() -> None:
    logits = np.random.default_rng(0).normal(0, 40, (4, 3, 5, 6)).astype(np.float32)
    probabilities = target("semantic").probabilities(logits)
    np.testing.assert_allclose(probabilities.sum(0), 1, rtol=1e-5)
    np.testing.assert_array_equal(target("semantic").decode(logits), logits.argmax(0))
