"""What targets of instances share: layers, classes of objects, slices, blocks, options that are refused."""

from typing import Any

import numpy as np
import pytest
import torch

from autoseg.targets import TARGETS, instance_target, make_target
from autoseg.targets.flow import FlowTarget
from autoseg.targets.instance_target import InstanceTarget
from planners.labels import LabelClass, Labels
from planners.plan import Target as TargetRecord
from planners.plan import Training
from planners.records import PlanError

NAMES = sorted(name for name, kind in TARGETS.items() if issubclass(kind, InstanceTarget))
WITH_IDS = [name for name in NAMES if name != "foreground"]
CLASSES = tuple(
    LabelClass(name=name, value=index) for index, name in enumerate(("background", "cell", "vessel", "drop"))
)
TWO_KINDS = Labels(classes=CLASSES, instance_classes=("cell", "drop"), ignore=9)


def target(name: str, labels: Labels = TWO_KINDS, training: Training | None = None, **options: Any) -> InstanceTarget:
    options = {"dimensions": 2, **options}
    record = TargetRecord(name=name, num_outputs=TARGETS[name].num_outputs(labels, options), options=options)
    made = make_target(record, labels, training or Training())
    assert isinstance(made, InstanceTarget)
    return made


def picture() -> torch.Tensor:
    """Two cells that touch, a drop, a vessel (whose ids count not), and an ignored corner: 1 × 2 × 24 × 30."""
    label = torch.zeros(1, 2, 24, 30, dtype=torch.int32)
    for index, number, rows, columns in (
        (1, 2**31 - 1, slice(2, 10), slice(2, 10)),
        (1, 5, slice(2, 10), slice(10, 18)),
        (3, 6, slice(13, 22), slice(3, 12)),
        (2, 8, slice(14, 22), slice(14, 28)),
        (4, 7, slice(0, 8), slice(22, 30)),
    ):
        label[0, 0, rows, columns], label[0, 1, rows, columns] = index, number
    return label


def perfect(made: InstanceTarget, label: torch.Tensor) -> np.ndarray:
    """Logits of a network that is right, K × space."""
    (maps,), _ = made.encode(label, [(1, 1)])
    if not maps.is_floating_point():
        return 8 * torch.nn.functional.one_hot(maps[0], made.record.num_outputs).movedim(-1, 0).float().numpy()
    vectors = 2 if isinstance(made, FlowTarget) else 0
    return torch.cat([maps[0, :vectors], 16 * maps[0, vectors:] - 8]).numpy()


@pytest.mark.parametrize("name", NAMES)
def test_objects_have_a_class_and_other_classes_have_no_objects(name: str) -> None:
    made, label = target(name), picture()
    found = made.instances(made.probabilities(perfect(made, label)))
    assert found.ids.dtype == np.int32
    assert found.ids.max() == (2 if name == "foreground" else 3)
    assert found.classes[0] == 0
    classes, wanted = found.classes[found.ids], label[0, 0].numpy()
    np.testing.assert_array_equal(classes, np.where((wanted == 1) | (wanted == 3), wanted, 0))


@pytest.mark.parametrize("name", NAMES)
def test_slices_of_a_flat_target_are_decoded_alone(name: str) -> None:
    made, label = target(name), picture()
    logits = perfect(made, label)
    one = made.decode(logits)
    several = made.decode(np.stack([logits, logits[..., ::1]], axis=1))
    assert several.shape == (2, 24, 30)
    np.testing.assert_array_equal(several[0], one)
    np.testing.assert_array_equal(several[1], np.where(one > 0, one + one.max(), 0))


@pytest.mark.parametrize("name", WITH_IDS)
def test_a_large_image_goes_in_blocks(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made, label = target(name, diameter=6), picture()
    logits = perfect(made, label)
    whole = made.decode(logits)
    monkeypatch.setattr(instance_target, "WHOLE_VOXELS", 100)
    monkeypatch.setitem(instance_target.BLOCK_SIDE, 2, 15)
    found = made.decode(logits)
    assert found.max() == whole.max()
    pairs = np.unique(np.stack([whole.ravel(), found.ravel()]), axis=1)
    assert pairs.shape[1] == whole.max() + 1


@pytest.mark.parametrize("name", WITH_IDS)
def test_mirrored_maps_average_to_the_same_objects(name: str) -> None:
    """Test-time mirroring: encode a mirrored label, mirror the maps back, average, decode."""
    made, label = target(name), picture()
    total = made.probabilities(perfect(made, label))
    for axes in ((0,), (1,), (0, 1)):
        turned = torch.from_numpy(perfect(made, label.flip([axis + 2 for axis in axes])))
        total = total + made.probabilities(made.flip(turned, axes).numpy())
    found = made.decode_probabilities(total / 4)
    np.testing.assert_array_equal(found, made.decode(perfect(made, label)))


@pytest.mark.parametrize("name", NAMES)
def test_training_towards_the_maps_lowers_the_loss_and_finds_the_objects(name: str, one_thread: None) -> None:
    made, label = target(name), picture()
    maps, weights = made.encode(label, [(1, 1)])
    logits = torch.zeros(1, made.record.num_outputs, 24, 30, requires_grad=True)
    losses = []
    for _ in range(40):
        loss = made.loss([logits], maps, weights, [1.0])
        (slope,) = torch.autograd.grad(loss, [logits])
        with torch.no_grad():
            logits -= 0.3 * slope.sign()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] - 1
    logits = logits.detach()
    logits[..., :8, 22:] = torch.from_numpy(perfect(made, label))[None][..., :8, 22:]
    assert made.decode(logits[0].numpy()).max() == (2 if name == "foreground" else 3)
    assert made.score(*made.counts(logits, label)) == pytest.approx([1, 1, 1], abs=0.02)


@pytest.mark.parametrize("name", NAMES)
def test_probabilities_of_structures_and_how_undecided_they_are(name: str) -> None:
    made = target(name)
    logits = np.zeros((made.record.num_outputs, 4, 5), dtype=np.float32)
    np.testing.assert_allclose(made.entropy(made.probabilities(logits)), 1, rtol=1e-5)
    logits[-3:] = 40
    logits[:-3] = -40
    assert len(made.background_probabilities(made.record.num_outputs)) == made.record.num_outputs
    outputs = made.structure_outputs()
    assert len(outputs) == 3
    assert max(max(item) for item in outputs) < made.record.num_outputs
    assert made.margin > 0
    assert not made.pointwise


@pytest.mark.parametrize("name", NAMES)
def test_settings_that_are_offered_can_be_decoded_with(name: str) -> None:
    """Each is another than the target's own; sizes are shares of the object of median diameter."""
    made, label = target(name, diameter=10), picture()
    probabilities = made.probabilities(perfect(made, label))
    offered = made.decode_choices()
    assert {"foreground", "smallest"} <= set(offered)
    assert set(offered["smallest"]) <= {1, 2, 8}, "of 78 pixels a hundredth, three, ten, but not what it is already"
    for setting, values in offered.items():
        assert values
        for value in values:
            assert value != getattr(made.options, setting)  # type: ignore[attr-defined]
            other = target(name, diameter=10, decode={setting: value})
            assert getattr(other.options, setting) == value  # type: ignore[attr-defined]
            assert other.instances(probabilities).ids.max() >= 1


def test_dense_tissue_has_no_foreground_to_fit() -> None:
    assert "foreground" not in target("boundary", Labels(classes=CLASSES[:2]), dense=True).decode_choices()


def test_small_objects_of_thick_slices_hold_fewer_voxels() -> None:
    even, thick = (
        target("boundary", dimensions=3, diameter=20, spacing=spacing).decode_choices()["smallest"]
        for spacing in ((1.0, 1.0, 1.0), (4.0, 1.0, 1.0))
    )
    assert [size / 4 for size in even] == pytest.approx(thick, abs=1)


@pytest.mark.parametrize("name", NAMES)
def test_components_are_what_the_foreground_alone_tells(name: str) -> None:
    made, label = target(name), picture()
    found = made.components(made.probabilities(perfect(made, label)))
    assert found.ids.max() == 2, "two cells that touch, and the drop"
    assert sorted(found.classes.tolist()) == [0, 1, 3]


@pytest.mark.parametrize("name", NAMES)
def test_the_probability_of_any_object_and_classes_without_objects(name: str) -> None:
    made, label = target(name), picture()
    probabilities = made.probabilities(perfect(made, label))
    classes = label[0, 0].numpy()
    chance = made.foreground_probability(probabilities)
    assert chance.dtype == np.float32
    np.testing.assert_array_equal((chance > 0.5)[classes != 4], ((classes == 1) | (classes == 3))[classes != 4])
    assert chance.max() <= 1
    assert made.has_others
    np.testing.assert_array_equal(
        made.other_classes(probabilities)[classes != 4], np.where(classes == 2, 2, 0)[classes != 4]
    )


def test_the_only_class_of_instances_owns_the_boundary() -> None:
    made = target("boundary", Labels(classes=CLASSES[:2]))
    assert made.structure_outputs() == ((1, 2),)
    assert target("boundary", Labels(classes=CLASSES[:2]), dense=True).structure_outputs() == ((1,),)


def test_dense_tissue_is_filled() -> None:
    ids = torch.arange(1, 13).view(3, 4).repeat_interleave(8, 0).repeat_interleave(8, 1)
    label = torch.stack([torch.ones_like(ids), ids])[None]
    made = target("boundary", Labels(classes=CLASSES[:2]), dense=True)
    found = made.decode(perfect(made, label))
    pairs = np.unique(np.stack([found.ravel(), ids.numpy().ravel()]), axis=1)
    assert pairs.shape[1] == 12
    assert found.min() == 1


def test_a_patch_without_ids_is_named() -> None:
    with pytest.raises(PlanError, match="layer 1 of the stored labels, and there is only layer 0"):
        target("flow").encode(picture()[:, :1], [(1, 1)])


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("flow", {"widht": 3}, "has no option widht; it knows dimensions"),
        ("flow", {"dimensions": 4}, "dimensions of a target is 4; give 2 or 3"),
        ("flow", {"spacing": [1.0]}, "spacing of target flow is .* give 2 numbers above 0"),
        ("flow", {"diameter": 0}, "diameter of target flow is 0"),
        ("flow", {"spacing": 3}, "spacing of target flow is 3; give 2 numbers above 0"),
        ("flow", {"spacing": ["a", 1]}, "spacing of target flow is .* give 2 numbers above 0"),
        ("flow", {"diameter": "wide"}, "diameter of target flow is 'wide'; give a number above 0"),
        ("flow", {"decode": 5}, "decode of target flow is 5; give settings by name"),
        ("flow", {"decode": {"smallest": "abc"}}, "decode.smallest of target flow is 'abc'; give a number"),
        ("flow", {"decode": {"smallest": 2.5}}, "decode.smallest of target flow is 2.5; give a whole number from 0"),
        ("flow", {"decode": {"steps": -1}}, "decode.steps of target flow is -1; give a whole number from 0"),
        ("boundary", {"decode": {"seed": None}}, "decode.seed of target boundary is None; give a number"),
        ("boundary", {"decode": {"seed": float("nan")}}, "decode.seed of target boundary is nan; give a number"),
        ("foreground", {"decode": {"foreground": True}}, "decode.foreground of target foreground is True"),
        ("boundary", {"dense": "yes"}, "dense of target boundary is 'yes'; give true or false"),
        ("boundary", {"width": "wide"}, "width of target boundary is 'wide'; give a number above 0"),
        ("boundary", {"weight": True}, "weight of target boundary is True; give a number above 0"),
        ("affinity", {"offsets": 3}, "offsets of target affinity is 3; give lists of 2 whole numbers"),
        ("affinity", {"offsets": [3, 4]}, r"offsets of target affinity is \[3, 4\]; give lists"),
        ("flow", {"decode": {"seed": 1}}, "decodes without a setting seed; it knows foreground, steps"),
        ("boundary", {"width": 0}, "width of target boundary is 0"),
        ("boundary", {"weight": -1}, "weight of target boundary is -1"),
        ("affinity", {"offsets": [[1, 0]]}, "lacks the nearest neighbour along axis 1"),
        ("affinity", {"offsets": [[1, 0], [0, 1], [0, 0]]}, "give 2 whole numbers, not 0"),
        ("affinity", {"offsets": [[1, 0], [0, 1], [0, 1]]}, "twice"),
        ("affinity", {"offsets": [[1, 0], [0, 1], [4, 4]]}, r"holds \[4, 4\], and not \[-4, 4\]"),
    ],
)
def test_impossible_options_are_refused(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        target(name, training=Training(mirror_axes=(0, 1)), **options)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_encoded_counts_as_its_label(name: str) -> None:
    made, label = target(name), picture()
    logits = torch.randn(1, made.record.num_outputs, 24, 30, generator=torch.Generator().manual_seed(0))
    (wanted,), (weight,) = made.encode(label, [(1, 1)])
    found = made.counts_of_encoded(logits, label, wanted, weight)
    assert all(torch.equal(a, b) for a, b in zip(found, made.counts(logits, label), strict=True))


def test_a_class_of_instances_must_exist() -> None:
    with pytest.raises(PlanError, match="class nerve is to have instances, and is none of the classes"):
        target("flow", Labels(classes=CLASSES, instance_classes=("nerve",)))


def test_offsets_along_several_axes_are_mirrored() -> None:
    made = target("affinity", offsets=[[1, 0], [0, 1], [3, 3], [3, -3]], training=Training(mirror_axes=(0, 1)))
    label = picture()
    for axes in ((0,), (1,), (0, 1)):
        (plain,), _ = made.encode(label, [(1, 1)])
        (turned,), (weights,) = made.encode(label.flip([axis + 2 for axis in axes]), [(1, 1)])
        counts = weights[0, :4]
        assert torch.equal((made.flip(plain[0], axes)[:4] * counts), turned[0, :4] * counts)
        assert counts.sum() > 500
