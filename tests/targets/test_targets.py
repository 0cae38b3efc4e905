"""The contract of targets and losses, over their tables."""

import dataclasses

import numpy as np
import pytest
import torch

from autoseg.targets import LOSSES, TARGETS, Target, make_target
from autoseg.targets.instance_target import InstanceTarget
from planners.labels import LabelClass, Labels, Region
from planners.plan import Target as TargetRecord
from planners.plan import Training

CLASSES = tuple(LabelClass(name=f"class {index}", value=index * 10) for index in range(4))
REGIONS = (
    Region(name="whole", values=(10, 20, 30)),
    Region(name="core", values=(20, 30)),
    Region(name="inner", values=(30,)),
)
LABELS = dict.fromkeys(TARGETS, Labels(classes=CLASSES)) | {"regions": Labels(classes=CLASSES, regions=REGIONS)}
INSTANCES = {name for name, kind in TARGETS.items() if issubclass(kind, InstanceTarget)}
STRIDES = [(1, 1, 1), (2, 2, 2), (2, 4, 4)]
SHARES = [0.6, 0.4, 0.0]
SIDED = {"mirror_swaps": ((1, 2),), "mirror_swap_axis": 2}


def target(name: str, labels: Labels | None = None, dimensions: int = 3, **training: object) -> Target:
    labels = labels or LABELS[name]
    options = {"dimensions": dimensions} if name in INSTANCES else {}
    record = TargetRecord(name=name, num_outputs=TARGETS[name].num_outputs(labels, options), options=options)
    return make_target(record, labels, Training(**training))  # type: ignore[arg-type]


def with_ignore(name: str) -> Labels:
    return dataclasses.replace(LABELS[name], ignore=255)


def sided(name: str) -> Labels:
    """Classes 1 and 2 are left and right; 3 lies in between."""
    regions = (
        Region(name="both", values=(10, 20)),
        Region(name="left", values=(10, 30)),
        Region(name="right", values=(20, 30)),
    )
    return Labels(classes=CLASSES, regions=regions if name == "regions" else ())


def random_label(seed: int, highest: int = 3, shape: tuple[int, ...] = (4, 8, 12)) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-1, highest + 1, (2, 1, *shape), generator=generator, dtype=torch.int16)


def label_for(name: str, seed: int, highest: int = 3) -> torch.Tensor:
    """Two layers, classes and ids: noise, or where objects are wanted cubes that touch, some of them of background."""
    if name not in INSTANCES:
        classes = random_label(seed, highest)
        return torch.cat([classes, random_label(seed + 1)], dim=1)
    generator = torch.Generator().manual_seed(seed)
    classes = torch.randint(-1, highest + 1, (2, 1, 1, 2, 3), generator=generator, dtype=torch.int16)
    ids = torch.randperm(100, generator=generator)[:12].view(2, 1, 1, 2, 3).to(torch.int16) + 1
    cubes = torch.cat([classes, ids], dim=1)
    return cubes.repeat_interleave(4, 2).repeat_interleave(4, 3).repeat_interleave(4, 4)


def random_outputs(seed: int, num_outputs: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = [[size // step for size, step in zip((4, 8, 12), stride, strict=True)] for stride in STRIDES]
    return [torch.randn(2, num_outputs, *shape, generator=generator, requires_grad=True) for shape in shapes]


def as_logits(made: Target, maps: torch.Tensor) -> torch.Tensor:
    """Turn encoded maps into logits of a network that is right: B × K × space."""
    if maps.dtype == torch.bool:
        return 16.0 * maps - 8
    if maps.is_floating_point():
        vectors = 3 if made.name == "flow" else 0
        return torch.cat([maps[:, :vectors], 16 * maps[:, vectors:] - 8], dim=1)
    return torch.nn.functional.one_hot(maps, made.record.num_outputs).movedim(-1, 1).float() * 8


@pytest.mark.parametrize("name", TARGETS)
def test_decoding_what_was_encoded_gives_the_label(name: str) -> None:
    label, made = label_for(name, 0), target(name)
    (maps,), _ = made.encode(label, [(1, 1, 1)])
    logits = as_logits(made, maps)
    for sample in range(2):
        expected = label[sample, 0].clamp(min=0).numpy()
        found = made.decode(logits[sample].numpy())
        if isinstance(made, InstanceTarget):
            instances = made.instances(made.probabilities(logits[sample].numpy()))
            np.testing.assert_array_equal(instances.classes[found], expected)
            if name != "foreground":
                found, expected = np.unique(found, return_inverse=True)[1], label[sample, 1].numpy() * (expected > 0)
                order = np.array([expected[found == index][0] for index in range(found.max() + 1)])
                assert len(set(order.tolist())) == len(order) > 1, "no object is cut"
                np.testing.assert_array_equal(order[found], expected)
            continue
        np.testing.assert_array_equal(found, expected)
        np.testing.assert_array_equal(made.decode_probabilities(made.probabilities(logits[sample].numpy())), expected)


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("axes", [(), (0,), (1, 2), (0, 1, 2)])
@pytest.mark.parametrize("sides", [False, True])
def test_encoding_a_mirrored_label_is_mirroring_the_maps(name: str, axes: tuple[int, ...], sides: bool) -> None:
    label, made = label_for(name, 1), target(name)
    if sides:
        made = target(name, sided(name), **SIDED)
    mirrored = label.flip([axis + 2 for axis in axes])
    if sides and 2 in axes:
        mirrored[:, 0] = torch.tensor([0, 2, 1, 3, -1], dtype=torch.int16)[mirrored[:, 0].long()]
    plain, _ = made.encode(label, [(1, 1, 1)])
    turned, (weights,) = made.encode(mirrored, [(1, 1, 1)])
    for sample, (before, after) in enumerate(zip(as_logits(made, plain[0]), as_logits(made, turned[0]), strict=True)):
        counts = torch.ones(1) if weights is None else weights[sample] > 0
        if name == "affinity":  # a weight for every offset, and one for all classes
            counts = counts[[*range(made.num_geometry), *[made.num_geometry] * 3]]
        torch.testing.assert_close(made.flip(before, axes) * counts, after * counts, rtol=0, atol=1e-5)
        if not after.is_floating_point() or name in ("semantic", "regions"):
            assert torch.equal(made.flip(before, axes), after)


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("batch_dice", [False, True])
def test_ignored_voxels_change_nothing(name: str, loss: str, batch_dice: bool) -> None:
    made = target(name, with_ignore(name), loss=loss, batch_dice=batch_dice)
    label = label_for(name, 2, highest=4)
    ignored = label[:, :1] == made.labels.ignore_index
    gradients, losses, counts = [], [], []
    outputs = random_outputs(3, made.record.num_outputs)
    for shift in (0.0, 5.0):
        moved = []
        for output, stride in zip(outputs, STRIDES, strict=True):
            cells = (slice(None), slice(None), *(slice(step // 2, None, step) for step in stride))
            here = ignored[cells].expand_as(output)
            channels = torch.arange(output.shape[1]).view(1, -1, 1, 1, 1)
            moved.append((output.detach() + shift * here * channels).requires_grad_())
        maps, weights = made.encode(label, STRIDES)
        value = made.loss(moved, maps, weights, SHARES)
        value.backward()
        assert moved[0].grad is not None
        here = ignored.expand_as(moved[0])
        assert not moved[0].grad[here].any()
        assert moved[0].grad[~here].any()
        gradients.append(moved[0].grad[~here])
        losses.append(value.detach())
        counts.append(torch.stack(made.counts(moved[0].detach(), label)))
    assert torch.allclose(losses[0], losses[1])
    assert torch.allclose(gradients[0], gradients[1], atol=1e-8)
    assert torch.equal(counts[0], counts[1])


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("value", [0, -1, 4])
def test_a_patch_without_foreground_is_finite(name: str, loss: str, value: int) -> None:
    made = target(name, with_ignore(name), loss=loss)
    label = torch.full((2, 2, 4, 8, 12), value, dtype=torch.int16)
    outputs = random_outputs(4, made.record.num_outputs)
    result = made.loss(outputs, *made.encode(label, STRIDES), SHARES)
    result.backward()
    assert torch.isfinite(result)
    assert outputs[0].grad is not None
    assert torch.isfinite(outputs[0].grad).all()
    assert outputs[2].grad is None, "an output of weight 0 is not computed"


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("batch_dice", [False, True])
@pytest.mark.parametrize("ignore", [False, True])
def test_classes_that_are_all_annotated_change_nothing(name: str, batch_dice: bool, ignore: bool) -> None:
    made = target(name, with_ignore(name) if ignore else None, batch_dice=batch_dice)
    label, outputs = label_for(name, 8, highest=3 + ignore), random_outputs(9, made.record.num_outputs)
    maps, weights = made.encode(label, STRIDES)
    everything = torch.ones(2, 4, dtype=torch.bool)
    plain = made.loss(outputs, maps, weights, SHARES)
    torch.testing.assert_close(made.loss(outputs, maps, weights, SHARES, everything), plain)
    logits = outputs[0].detach()
    assert torch.equal(torch.stack(made.counts(logits, label, everything)), torch.stack(made.counts(logits, label)))


@pytest.mark.parametrize("name", TARGETS)
def test_what_is_not_annotated_is_not_counted(name: str) -> None:
    """Sample 0 was annotated for classes 2 and 3 alone, sample 1 for all."""
    made = target(name)
    annotated = torch.tensor([[True, False, True, True], [True] * 4])
    label = label_for(name, 10)
    label[0, 0][label[0, 0] == 1] = 0
    logits = random_outputs(11, made.record.num_outputs)[0].detach()
    counts = torch.stack(made.counts(logits, label, annotated))
    parts = [torch.stack(made.counts(logits[i : i + 1], label[i : i + 1])) for i in range(2)]
    parts[0][:, 0] = 0  # class 1, or the region "whole", which holds it
    assert torch.equal(counts, parts[0] + parts[1])
    alone = made.counts(logits[:1], label[:1], annotated[:1])
    assert made.score(*alone)[0] is None


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("batch_dice", [False, True])
def test_nothing_annotated_but_background_is_finite(name: str, loss: str, batch_dice: bool) -> None:
    made = target(name, loss=loss, batch_dice=batch_dice)
    outputs = random_outputs(12, made.record.num_outputs)
    annotated = torch.tensor([[True, False, False, False]] * 2)
    label = torch.zeros(2, 2, 4, 8, 12, dtype=torch.int16)
    value = made.loss(outputs, *made.encode(label, STRIDES), SHARES, annotated)
    value.backward()
    assert value.item() == pytest.approx(0, abs=1e-5)
    assert outputs[0].grad is not None
    assert outputs[0].grad.abs().max() < 1e-6, "background may be anything: nothing is learned"


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
    made = target(name, dimensions=2, loss="dice+cross-entropy")
    label = torch.randint(0, 4, (3, 2, 8, 8), dtype=torch.int16)
    maps, weights = made.encode(label, [(1, 1), (2, 2)])
    outputs = [torch.randn(3, made.record.num_outputs, *shape) for shape in ((8, 8), (4, 4))]
    assert torch.isfinite(made.loss(outputs, maps, weights, [0.7, 0.3]))


def test_probabilities_are_a_distribution() -> None:
    logits = np.random.default_rng(0).normal(0, 40, (4, 3, 5, 6)).astype(np.float32)
    probabilities = target("semantic").probabilities(logits)
    np.testing.assert_allclose(probabilities.sum(0), 1, rtol=1e-5)
    np.testing.assert_array_equal(target("semantic").decode(logits), logits.argmax(0))
