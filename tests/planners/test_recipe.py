import math

import pytest

from planners import Channel, LabelClass, Labels, Region
from planners.decision import Decision
from planners.plan import Augmentation
from planners.recipe import masks, normalizations, resampling, semantic_target, training, validation_steps
from planners.unet import count_label_entries

BATCH_DICE = Decision(value=False, rule="r", because="b")


@pytest.mark.parametrize(
    ("name", "scheme"),
    [
        ("CT", "ct"),
        ("ct", "ct"),
        ("noNorm", "none"),
        ("zscore", "zscore"),
        ("rescale_to_0_1", "rescale-0-1"),
        ("rgb_to_0_1", "rgb-0-1"),
        ("T1", "zscore"),
        ("CT scan", "zscore"),
    ],
)
def test_normalization_by_name(name: str, scheme: str) -> None:
    assert normalizations([Channel(name=name)]).value == (scheme,)


def test_normalization_reason_names_the_channels() -> None:
    found = normalizations([Channel(name="CT"), Channel(name="PET"), Channel(name="DWI")])
    assert found.value == ("ct", "zscore", "zscore")
    assert found.because == "CT: asked for by name; PET, DWI: no special name, so zscore"


def test_mask_counts_where_cropping_leaves_less_than_three_quarters() -> None:
    assert masks(("zscore", "ct"), 0.74).value == (True, False)
    assert masks(("zscore", "ct"), 0.75).value == (False, False)
    assert masks(("zscore",), 0.4).because == "cropping keeps 40 % of the voxels (< 75 %)"


@pytest.mark.parametrize(
    ("patch", "degrees", "in_plane"),
    [
        ((128, 128, 128), 30, False),
        ((64, 160, 192), 30, False),  # exactly three times: not more
        ((63, 160, 192), 180, True),
        ((512, 512), 180, False),
        ((300, 200), 180, False),  # exactly one and a half
        ((320, 192), 15, False),
    ],
)
def test_rotation(patch: tuple[int, ...], degrees: float, in_plane: bool) -> None:
    made, reasons = training(patch, BATCH_DICE, "c.training")
    assert made.augmentation == Augmentation(rotation_radians=math.radians(degrees), in_plane=in_plane)
    assert made.mirror_axes == tuple(range(len(patch)))
    assert {reason.about for reason in reasons} == {
        "c.training",
        "c.training.validation_steps",
        "c.training.batch_dice",
        "c.training.mirror_axes",
        "c.training.augmentation.rotation_radians",
        "c.training.augmentation.in_plane",
    }


def test_recipe_is_the_published_one() -> None:
    made, _ = training((128, 128, 128), BATCH_DICE, "c.training")
    assert (made.epochs, made.steps_per_epoch, made.validation_steps) == (1000, 250, 50)
    assert (made.learning_rate, made.momentum, made.weight_decay, made.gradient_clip) == (0.01, 0.99, 3e-5, 12)
    assert (made.optimizer, made.schedule, made.loss) == ("sgd", "poly", "dice+cross-entropy")
    assert made.foreground_fraction == 0.33


@pytest.mark.parametrize(("steps", "expected"), [(250, 50), (50, 10), (9, 1), (1, 1)])
def test_validation_takes_a_fifth(steps: int, expected: int) -> None:
    assert validation_steps(steps).value == expected


def test_resampling_orders() -> None:
    found = resampling((1.0, 1.0, 1.0)).value
    assert (found.image_order, found.label_order, found.logits_order, found.order_through_plane) == (3, 1, 1, 0)
    assert found.anisotropy_threshold == 3


CLASSES = tuple(LabelClass(name=str(value), value=value) for value in range(4))


def test_ignore_label_gets_no_output() -> None:
    target, reasons = semantic_target(Labels(classes=CLASSES, ignore=9), "2d.target")
    assert (target.name, target.num_outputs) == ("semantic", 4)
    assert reasons[-1].because == "4 classes with background; 9 (ignore) gets no output"


@pytest.mark.parametrize(
    ("labels", "entries"),
    [
        (Labels(classes=CLASSES), 4),
        (Labels(classes=CLASSES, ignore=9), 5),
        (Labels(classes=CLASSES, regions=(Region(name="all", values=(1, 2, 3)), Region(name="one", values=(1,)))), 3),
        (Labels(classes=CLASSES, regions=(Region(name="all", values=(1, 2, 3)),), ignore=9), 3),
    ],
)
def test_label_entries(labels: Labels, entries: int) -> None:
    assert count_label_entries(labels) == entries
