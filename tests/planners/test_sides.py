"""Left and right: found by name and by place, exchanged or left alone."""

from typing import Any

import pytest

from planners import Channel, Fingerprint, LabelClass, Labels, MemoryBudget, Region
from planners.describe import describe
from planners.sides import find_pairs, find_sides, mirroring, region_swaps
from planners.unet import plan_default

NAMES = ("background", "left kidney", "right kidney", "liver")
LEFT, RIGHT = (0.5, 0.5, 0.7), (0.5, 0.52, 0.3)
CENTERS = (None, LEFT, RIGHT, (0.4, 0.5, 0.4))


def labels_of(*names: str, regions: tuple[Region, ...] = ()) -> Labels:
    classes = tuple(LabelClass(name=name, value=value) for value, name in enumerate(names))
    return Labels(classes=classes, regions=regions)


def fingerprint(
    names: tuple[str, ...] = NAMES,
    orientations: tuple[str | None, ...] = ("SPL",) * 10,
    centers: tuple[Any, ...] = (CENTERS,) * 10,
    **fields: Any,
) -> Fingerprint:
    num = fields.pop("num", 10)
    return Fingerprint(
        dataset="d",
        channels=(Channel(name="MRI"),),
        labels=fields.pop("labels", labels_of(*names)),
        num_cases=num,
        spacings_mm=((1.0, 1.0, 1.0),) * num,
        shapes=((64, 64, 64),) * num,
        class_centers=centers,
        orientations=orientations,
        **fields,
    )


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("left kidney", "right kidney"),
        ("Kidney_Left", "kidney_RIGHT"),
        ("LeftKidney", "RightKidney"),
        ("kidneyL", "kidneyR"),
        ("l-kidney", "r-kidney"),
        ("kidney.l", "kidney.r"),
        ("ctx-lh-insula", "ctx-rh-insula"),
        ("ren sinister", "ren dexter"),
        ("arteria sin", "arteria dex"),
        ("left", "right"),
        ("rib_left_11", "rib_right_11"),
    ],
)
def test_names_of_two_sides(left: str, right: str) -> None:
    assert find_pairs(["liver", right, left]) == ((2, 1),)


@pytest.mark.parametrize(
    "names",
    [
        ["left kidney", "right lung"],
        ["leftover", "rightover"],
        ["vertebra L1", "vertebra R1"],
        ["l kidney stone l", "liver"],
        ["lung l upper", "lung r upper"],  # a letter in the middle may be anything
        ["left kidney", "kidney right"],
        ["left kidney", "right kidney", "Right Kidney"],
        ["anterior", "posterior"],
    ],
)
def test_names_that_are_no_pair(names: list[str]) -> None:
    assert find_pairs(names) == ()


def test_many_pairs_keep_to_themselves() -> None:
    names = ["lung_left", "rib_left_1", "rib_right_1", "lung_right", "rib_left_2", "rib_right_2", "spleen"]
    assert find_pairs(names) == ((0, 3), (1, 2), (4, 5))


def test_sides_change_places_along_their_axis() -> None:
    decided = mirroring(fingerprint(), (0, 1, 2), 3)
    assert decided["mirror_axes"].value == (0, 1, 2)
    assert decided["mirror_swaps"].value == ((1, 2),)
    assert decided["mirror_swap_axis"].value == 2
    because = decided["mirror_swaps"].because
    assert "along x left kidney and right kidney change places" in because
    assert "in all cases, and they lie 40 % of it apart, always the same way round" in because


@pytest.mark.parametrize(
    ("order", "dimensions", "axis"), [((2, 0, 1), 3, 0), ((1, 2, 0), 3, 1), ((0, 1, 2), 2, 1), ((0, 2, 1), 2, 0)]
)
def test_the_axis_is_counted_in_the_patch(order: tuple[int, ...], dimensions: int, axis: int) -> None:
    assert mirroring(fingerprint(), order, dimensions)["mirror_swap_axis"].value == axis


def test_sides_across_the_slices_do_not_matter_in_2d() -> None:
    decided = mirroring(fingerprint(), (2, 0, 1), 2)
    assert list(decided) == ["mirror_axes"]
    assert decided["mirror_axes"].value == (0, 1)
    assert "across the slices" in decided["mirror_axes"].because


def turned(centers: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(None if item is None else (*item[:2], 1 - item[2]) for item in centers)


@pytest.mark.parametrize(
    ("changes", "axes", "because"),
    [
        ({"orientations": ("SPL",) * 9 + ("LPS",)}, (1,), "not the same in all cases"),
        ({"orientations": (None,) * 10}, (0, 1), "the files do not say which axis"),
        ({"orientations": (), "centers": ()}, (), "the files do not say which axis"),
        ({"centers": (CENTERS,) * 9 + (turned(CENTERS),)}, (0, 1), "do not lie the same way round"),
        ({"centers": ((None, LEFT, None, None),) * 10}, (0, 1), "no case shows both sides"),
        ({"centers": ()}, (0, 1), "no case shows both sides"),
    ],
)
def test_where_it_is_not_certain_that_axis_is_not_mirrored(
    changes: dict[str, Any], axes: tuple[int, ...], because: str
) -> None:
    decided = mirroring(fingerprint(**changes), (0, 1, 2), 3)
    assert list(decided) == ["mirror_axes"]
    assert decided["mirror_axes"].value == axes
    assert decided["mirror_axes"].rule == "keep-sides"
    assert because in decided["mirror_axes"].because
    assert "left kidney and right kidney would be taken for each other" in decided["mirror_axes"].because


def test_one_stray_case_in_twenty_is_borne_with() -> None:
    found = fingerprint(num=20, orientations=("SPL",) * 20, centers=(CENTERS,) * 19 + (turned(CENTERS),))
    assert mirroring(found, (0, 1, 2), 3)["mirror_swaps"].value == ((1, 2),)


def test_silent_files_must_lie_alike() -> None:
    some = ("SPL",) * 5 + (None,) * 5
    decided = mirroring(fingerprint(orientations=some), (0, 1, 2), 3)
    assert decided["mirror_swaps"].value == ((1, 2),)
    assert "but 5 whose files do not say" in decided["mirror_swaps"].because
    other = mirroring(fingerprint(orientations=some, centers=(CENTERS,) * 5 + (turned(CENTERS),) * 5), (0, 1, 2), 3)
    assert other["mirror_axes"].value == (0, 1)


def test_pairs_must_agree_which_side_comes_first() -> None:
    names = (*NAMES[:3], "left lung", "right lung")
    centers = (None, LEFT, RIGHT, RIGHT, LEFT)
    decided = mirroring(fingerprint(names, centers=(centers,) * 10), (0, 1, 2), 3)
    assert decided["mirror_axes"].value == (0, 1)


def test_the_halves_of_a_heart_are_no_mirror_images() -> None:
    centers = (None, LEFT, RIGHT)
    heart = mirroring(
        fingerprint(("background", "left ventricle", "right ventricle"), centers=(centers,) * 10), (0, 1, 2), 3
    )
    assert heart["mirror_axes"].value == (0, 1)
    assert "left ventricle has no mirror image" in heart["mirror_axes"].because
    brain = ("background", "Left-Lateral-Ventricle", "Right-Lateral-Ventricle")
    assert "mirror_swaps" in mirroring(fingerprint(brain, centers=(centers,) * 10), (0, 1, 2), 3)


def test_without_sides_every_axis_is_mirrored() -> None:
    decided = mirroring(fingerprint(("background", "a", "b", "c")), (0, 1, 2), 3)
    assert {name: item.value for name, item in decided.items()} == {"mirror_axes": (0, 1, 2)}
    assert decided["mirror_axes"].because == "along every axis of the patch"
    assert find_sides(fingerprint(("background", "a", "b", "c"))) is None


# ------------------------------------------------------------------------------------------------------------- regions

KIDNEYS = (
    Region(name="left kidney", values=(1, 2)),
    Region(name="right kidney", values=(3, 4)),
    Region(name="tumour left", values=(2,)),
    Region(name="tumour right", values=(4,)),
)


def test_classes_change_places_as_their_regions_do() -> None:
    labels = labels_of("background", "a", "b", "c", "d", regions=KIDNEYS)
    centers = (None, LEFT, LEFT, RIGHT, RIGHT)
    decided = mirroring(fingerprint(labels=labels, centers=(centers,) * 10), (0, 1, 2), 3)
    assert decided["mirror_swaps"].value == ((1, 3), (2, 4))
    assert region_swaps(labels, ((1, 3), (2, 4))) == ((0, 1), (2, 3))


def test_regions_that_do_not_pair_up_switch_it_off() -> None:
    labels = labels_of("background", "a", "b", "c", "d", regions=KIDNEYS[:3])
    decided = mirroring(fingerprint(labels=labels, centers=((None,) * 5,) * 10), (0, 1, 2), 3)
    assert decided["mirror_axes"].value == (0, 1)
    assert "regions do not say which classes change places" in decided["mirror_axes"].because
    sided = labels_of("background", "left a", "right a", "c", regions=(Region(name="x", values=(1, 3)),))
    assert region_swaps(sided, ((1, 2),)) is None
    assert mirroring(fingerprint(labels=sided), (0, 1, 2), 3)["mirror_axes"].value == (0, 1)


def test_pairs_of_classes_within_regions() -> None:
    regions = (
        Region(name="both", values=(1, 2)),
        Region(name="first", values=(1,)),
        Region(name="second", values=(2,)),
    )
    labels = labels_of(*NAMES, regions=regions)
    assert mirroring(fingerprint(labels=labels), (0, 1, 2), 3)["mirror_swaps"].value == ((1, 2),)
    assert region_swaps(labels, ((1, 2),)) == ((1, 2),)


# ---------------------------------------------------------------------------------------------------------- the plan


def test_the_plan_says_what_changes_places() -> None:
    plan = plan_default(fingerprint(), MemoryBudget())
    for configuration in plan.configurations:
        training = configuration.training
        assert training.mirror_swaps == ((1, 2),)
        assert training.mirror_swap_axis == configuration.dimensions - 1
    rules = {reason.about: reason.rule for reason in plan.reasons}
    assert rules["3d_fullres.training.mirror_swaps"] == "swap-sides"
    assert rules["2d.training.mirror_swap_axis"] == "swap-sides"
    words = " ".join(describe(plan).split())
    assert "mirroring z, y, x; x exchanges along every axis of the patch; along x left kidney and" in words
    off = plan_default(fingerprint(orientations=(None,) * 10), MemoryBudget())
    assert off.configuration("3d_fullres").training.mirror_axes == (0, 1)
    assert off.configuration("2d").training.mirror_axes == (0,)


def test_regions_get_a_target_of_their_own() -> None:
    regions = (Region(name="whole", values=(1, 2, 3)), Region(name="core", values=(2, 3)))
    plan = plan_default(fingerprint(labels=labels_of(*NAMES, regions=regions)), MemoryBudget())
    for configuration in plan.configurations:
        assert (configuration.target.name, configuration.target.num_outputs) == ("regions", 2)
    because = {reason.about: reason.because for reason in plan.reasons}
    assert because["3d_fullres.target.name"] == "whole, core may overlap"
    assert "2 regions: whole, core; classes come back by painting" in because["3d_fullres.target.num_outputs"]


def test_a_fingerprint_without_places_is_read() -> None:
    from planners.records import from_json, to_json

    written = to_json(fingerprint(("background", "a"), orientations=(), centers=()))
    for name in ("class_centers", "orientations"):
        del written[name]
    assert from_json(Fingerprint, written).orientations == ()
    assert from_json(Fingerprint, to_json(fingerprint())) == fingerprint()


@pytest.mark.parametrize("letters", ["SPX", "SP", "SSL", "spl"])
def test_impossible_orientations(letters: str) -> None:
    with pytest.raises(ValueError, match="three letters such as SPL"):
        fingerprint(orientations=(letters,) * 10)
