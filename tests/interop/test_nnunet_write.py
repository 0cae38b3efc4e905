"""Models of ours as nnU-Net's model folders: its own names, and nothing lost on the way there and back."""

import dataclasses
import json
import re
from pathlib import Path

import pytest
import torch

from autoseg.errors import ModelError, OptionError
from autoseg.interop import open_nnunet
from autoseg.interop.nnunet import _load
from autoseg.interop.nnunet_describe import changed_values, describe_dataset, describe_plans, heads_of, reader_of
from autoseg.interop.nnunet_names import their_weights
from autoseg.interop.nnunet_write import TrainedConfiguration, write_nnunet
from autoseg.networks import build_network
from autoseg.targets import make_target
from planners.labels import LabelClass, Labels, Region
from planners.plan import Architecture, Input, Output, Plan, Resampling, SizeScaling, Stage, Target
from planners.presets import supervise

from .conftest import PLAIN, RESIDUAL, architecture

KEPT = json.loads((Path(__file__).parent / "nnunet_parameters.json").read_text())
"""Names and shapes of all parameters of networks that dynamic_network_architectures 0.4.4 builds."""


def widening() -> Architecture:
    """A residual encoder whose second stage is wider, but not coarser: its projection follows no pooling."""
    stages = zip((2, 3, 3), ((1, 3, 3), (3,) * 3, (3,) * 3), ((1,) * 3, (1,) * 3, (1, 2, 2)), (1, 1, 2), strict=True)
    return Architecture(
        family=RESIDUAL,
        dimensions=3,
        stages=tuple(Stage(features=f, kernel=k, stride=s, num_blocks=n) for f, k, s, n in stages),
        num_decoder_blocks=(1, 2),
        outputs=supervise(((1,) * 3, (1,) * 3, (1, 2, 2))),
    )


@pytest.mark.parametrize(
    ("name", "made", "channels"),
    [
        (PLAIN, architecture(PLAIN), (2, 3)),
        (RESIDUAL, architecture(RESIDUAL), (2, 3)),
        ("widening", widening(), (1, 2)),
    ],
)
def test_names_and_shapes_are_nnunets_own(name, made, channels):
    found = their_weights(build_network(made, *channels).state_dict(), made)
    assert {key: list(value.shape) for key, value in found.items()} == KEPT[name]


def trained(plan, weights, names):
    """What is to be written, of a model that was opened."""
    return [
        TrainedConfiguration(plan.configuration(n), {fold: weights[own, fold] for own, fold in weights if own == n})
        for n in names
    ]


def test_there_and_back(model, tmp_path):
    model.dataset["labels"]["ignore"] = 3
    plan, weights = open_nnunet(model.write(("0", "1", "all")))
    plan = dataclasses.replace(plan, configurations=plan.configurations[:1])
    (folder,) = write_nnunet(plan, trained(plan, weights, ["2d"]), tmp_path / "out", ".nii.gz")
    assert folder.name == "nnUNetTrainer__nnUNetPlans__2d"
    again, read = open_nnunet(folder)
    assert dataclasses.replace(again, reasons=()) == dataclasses.replace(plan, reasons=())
    assert list(read) == [("2d", 0), ("2d", 1), ("2d", "all-data")] == list(weights)
    for key, values in weights.items():
        assert all(torch.equal(read[key][name], value) for name, value in values.items())
    file = folder / "fold_1" / "checkpoint_final.pth"
    theirs = torch.load(file, weights_only=True)  # nothing in it but tensors, containers and the device
    assert theirs["network_weights"].keys() == model.checkpoint["network_weights"].keys()
    assert theirs["inference_allowed_mirroring_axes"] == (1,)
    assert theirs["init_args"]["fold"] == 1
    assert file.stat().st_size < 2 * sum(value.nbytes for value in model.weights.values()), "each number once"


def test_plans_json_says_what_nnunet_said(model):
    plan, _ = open_nnunet(model.write())
    found = describe_plans(plan, plan.configurations[:1], ".nii.gz")
    assert found["configurations"]["2d"] == model.plans["configurations"]["2d"]
    for key in ("dataset_name", "transpose_forward", "transpose_backward"):
        assert found[key] == model.plans[key]
    assert found["foreground_intensity_properties_per_channel"] == {
        "0": {
            name: float(value)
            for name, value in model.plans["foreground_intensity_properties_per_channel"]["0"].items()
        },
        "1": {
            name: float(value)
            for name, value in model.plans["foreground_intensity_properties_per_channel"]["1"].items()
        },
    }


def test_a_cascade_there_and_back(plain, tmp_path):
    plain.write(("0", "1"))
    plan, weights = open_nnunet(plain.beside("2d_cascade").write())
    first, second = write_nnunet(plan, trained(plan, weights, ["2d", "2d_cascade"]), tmp_path / "out", ".nii.gz")
    assert json.loads((first / "plans.json").read_text())["configurations"]["2d"]["next_stage"] == "2d_cascade"
    again, read = open_nnunet(second)
    assert again.configurations == plan.configurations
    assert list(read) == list(weights)
    assert torch.equal(read["2d", 1]["heads.0.conv.weight"], weights["2d", 1]["heads.0.conv.weight"])


@pytest.mark.parametrize("threshold", [3.0, 5.0, 1e9])
def test_resampling_there_and_back(plain, tmp_path, threshold):
    plan, weights = open_nnunet(plain.write())
    item = plan.configurations[0]
    resampling = Resampling(image_order=2, label_order=0, logits_order=3, anisotropy_threshold=threshold)
    plan = dataclasses.replace(plan, configurations=(dataclasses.replace(item, resampling=resampling),))
    (folder,) = write_nnunet(plan, trained(plan, weights, ["2d"]), tmp_path / "out", ".nii.gz")
    assert open_nnunet(folder)[0].configuration("2d").resampling == resampling


REGIONS = Labels(
    classes=tuple(LabelClass(name=n, value=v) for n, v in (("air", 0), ("edema", 7), ("core", 3))),
    regions=(Region(name="tip", values=(3,)), Region(name="whole", values=(7, 3))),
)
"""Painted from the second to the first; the values are not consecutive."""


@pytest.fixture
def regions(plain) -> tuple[Plan, dict]:
    """A plan of two regions, and weights."""
    plan, weights = open_nnunet(plain.write())
    item = dataclasses.replace(plan.configurations[0], target=Target(name="regions", num_outputs=2))
    values = {k: v[:2] if k.startswith("heads") else v for k, v in weights["2d", 0].items()}
    return dataclasses.replace(plan, labels=REGIONS, configurations=(item,)), {("2d", 0): values}


def test_regions_are_painted_in_the_order_of_the_outputs(regions, tmp_path):
    plan, weights = regions
    assert heads_of(plan, plan.configurations[0]) == (1, 0)
    (folder,) = write_nnunet(plan, trained(plan, weights, ["2d"]), tmp_path / "out", ".nii.gz")
    dataset = json.loads((folder / "dataset.json").read_text())
    assert list(dataset["labels"].items()) == [("background", 0), ("whole", [1, 2]), ("tip", 2)]
    assert dataset["regions_class_order"] == [1, 2]
    again, read = open_nnunet(folder)
    found = read["2d", 0]
    for name, value in weights["2d", 0].items():
        assert torch.equal(found[name], value.flip(0) if name.startswith("heads") else value)
    ours = make_target(plan.configurations[0].target, plan.labels, plan.configurations[0].training)
    theirs = make_target(again.configurations[0].target, again.labels, again.configurations[0].training)
    logits = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0)).numpy()
    assert (ours.decode(logits) == theirs.decode(logits[::-1])).all()
    assert len(set(ours.decode(logits).ravel().tolist())) == 3


def test_values_become_consecutive_and_that_is_said(regions):
    plan, _ = regions
    item = dataclasses.replace(plan.configurations[0], target=Target(name="semantic", num_outputs=3))
    assert describe_dataset(plan, item, ".png") == {
        "channel_names": {"0": "CT", "1": "PET"},
        "labels": {"background": 0, "edema": 1, "core": 2},
        "file_ending": ".png",
    }
    assert "hold 1 for 7, 2 for 3" in changed_values(plan.labels)
    consecutive = tuple(LabelClass(name=name, value=value) for value, name in enumerate(("air", "rim")))
    assert not changed_values(Labels(classes=consecutive, ignore=2))


def test_readers(regions):
    flat = regions[0].configurations
    deep = (dataclasses.make_dataclass("Deep", ["dimensions"])(3),)
    found = [reader_of(ending, of) for ending, of in ((".tif", flat), (".tif", deep), (".png", flat), (".mha", deep))]
    assert found == ["NaturalImage2DIO", "Tiff3DIO", "NaturalImage2DIO", "SimpleITKIO"]


ONE = Output(stride=(1, 1), loss_weight=1.0)
CANNOT = {
    "objects": ({"target": Target(name="foreground", num_outputs=1)}, {}, "targets that tell objects apart"),
    "swaps": ({"training": {"mirror_swaps": ((1, 2),), "mirror_swap_axis": 1}}, {}, "left and right"),
    "scaling": ({"scaling": SizeScaling(diameter_mm=3.0, weights=(1.0,))}, {}, "a common size (scaling)"),
    "normalization": ({"normalization": ("zscore", "mine")}, {}, "no normalization mine"),
    "outputs": ({"architecture": {"outputs": (ONE,)}}, {}, "an output at every stage of the decoder, not 1"),
    "family": ({"architecture": {"family": "other"}}, {}, "no network other"),
    "options": ({"architecture": {"options": {"a": 1}}}, {}, "no network plain-unet {'a': 1}"),
    "output size": ({"output_size": (8, 8)}, {}, "as large as the patch (output_size)"),
    "seeds": ({"inputs": (Input(channels=1), Input(kind="seeds", name="s", channels=1))}, {}, "no inputs other than"),
    "name": ({}, {"classes": (("air", 0), ("Background", 1), ("x", 2))}, "keeps the name background"),
    "crossing": (
        {"target": Target(name="regions", num_outputs=2)},
        {
            "classes": (("air", 0), ("a", 1), ("b", 2), ("c", 3)),
            "regions": (Region(name="x", values=(1, 2)), Region(name="y", values=(2, 3))),
        },
        "no order of painting gives these regions back",
    ),
    "single": (
        {"target": Target(name="regions", num_outputs=2)},
        {"regions": (Region(name="x", values=(1,)), Region(name="y", values=(2,)))},
        "regions of one class each",
    ),
    "left out": (
        {"target": Target(name="regions", num_outputs=2)},
        {
            "classes": (("air", 0), ("a", 1), ("b", 2), ("lost", 3)),
            "regions": (Region(name="x", values=(1, 2)), Region(name="y", values=(2,))),
        },
        "no class that belongs to no region (lost)",
    ),
}


@pytest.mark.parametrize("case", CANNOT)
def test_what_nnunet_cannot_say_is_refused_by_name(plain, tmp_path, case):
    changes, about_labels, message = CANNOT[case]
    plan, weights = open_nnunet(plain.write())
    item = plan.configurations[0]
    made = {
        name: dataclasses.replace(getattr(item, name), **value) if isinstance(value, dict) else value
        for name, value in changes.items()
    }
    classes = about_labels.get("classes", (("air", 0), ("a", 1), ("b", 2)))
    labels = Labels(
        classes=tuple(LabelClass(name=name, value=value) for name, value in classes),
        regions=about_labels.get("regions", ()),
    )
    changed = dataclasses.replace(item, **made)
    plan = dataclasses.replace(plan, labels=labels, configurations=(changed,))
    item = TrainedConfiguration(changed, {0: weights["2d", 0]})
    with pytest.raises(ModelError, match=re.escape(message)):
        write_nnunet(plan, [item], tmp_path / "out", ".nii.gz")
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_there_is_left_alone(plain, tmp_path):
    plan, weights = open_nnunet(plain.write())
    (place,) = write_nnunet(plan, trained(plan, weights, ["2d"]), tmp_path / "out", ".nii.gz")
    before = sorted(place.rglob("*"))
    with pytest.raises(OptionError, match="is there already"):
        write_nnunet(plan, trained(plan, weights, ["2d"]), tmp_path / "out", ".nii.gz")
    assert sorted(place.rglob("*")) == before


@pytest.mark.data
def test_the_kept_model_there_and_back(golden_folder, tmp_path):
    file = Path("fold_0") / "checkpoint_final.pth"
    model = golden_folder / "nnunet_hippocampus" / "model"
    plan, weights = open_nnunet(model)
    (folder,) = write_nnunet(plan, trained(plan, weights, ["3d_fullres"]), tmp_path, ".nii.gz")
    theirs, ours = (_load(place / file)["network_weights"] for place in (model, folder))
    assert theirs.keys() == ours.keys()
    assert all(torch.equal(ours[name], value) for name, value in theirs.items())
    written, kept = (json.loads((place / "plans.json").read_text())["configurations"] for place in (folder, model))
    assert {**written["3d_fullres"], "data_identifier": ""} == {**kept["3d_fullres"], "data_identifier": ""}
