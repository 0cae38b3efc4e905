"""Models of nnU-Net v2 become plans and weights of ours; what cannot be understood is told in one message."""

import pickle
import re

import pytest
import torch

from autoseg.errors import ModelError
from autoseg.interop import open_nnunet
from autoseg.interop.nnunet import is_nnunet
from autoseg.networks import build_network, put_weights
from planners import records
from planners.labels import LabelClass, Region
from planners.plan import Input, Plan, Resampling, Target


def test_a_model_folder_becomes_a_plan_and_weights(model):
    folder = model.write(("1", "0", "all"))
    assert is_nnunet(folder)
    plan, weights = open_nnunet(folder)
    assert list(weights) == [("2d", 0), ("2d", 1), ("2d", "all-data")]
    assert len(weights) == 3
    found = weights["2d", 1]
    assert list(found) == list(model.weights)
    assert all(torch.equal(found[name], value) for name, value in model.weights.items())
    item = plan.configuration("2d")
    put_weights(build_network(item.architecture, item.num_input_channels, item.target.num_outputs), found, folder)
    assert records.from_json(Plan, records.to_json(plan)) == plan


def test_one_checkpoint_is_enough(model):
    folder = model.write(("all",))
    plan, weights = open_nnunet(folder)
    file = folder / "fold_all" / "checkpoint_final.pth"
    assert is_nnunet(file)
    alone, read = open_nnunet(file)
    assert alone == plan
    assert list(read) == [("2d", "all-data")]
    assert all(torch.equal(read["2d", "all-data"][name], value) for name, value in weights["2d", "all-data"].items())


def test_every_value_of_the_plan(model):
    plan, _ = open_nnunet(model.write())
    item = plan.configuration("2d")
    family = item.architecture.family
    assert item.architecture == model.architecture, "the decoder's depths are turned around"
    assert plan.dataset == "Dataset099_Made"
    assert plan.planner == ("default" if family == "plain-unet" else "resenc-l")
    assert plan.axis_order == (2, 0, 1)
    assert [channel.name for channel in plan.channels] == ["CT", "PET"]
    measured = plan.channels[1].intensities
    assert (measured.mean, measured.median, measured.std, measured.minimum, measured.maximum) == (1, 2, 3, -4, 5)
    assert (measured.percentile_00_5, measured.percentile_99_5) == (-3, 4)
    assert plan.labels.classes == tuple(
        LabelClass(name=name, value=value) for value, name in enumerate(("background", "liver", "tumour"))
    )
    assert (item.spacing_mm, item.median_shape) == ((0.5, 0.75), (17.5, 25.0))
    assert (item.patch_size, item.output_size, item.batch_size) == ((16, 24), (16, 24), 5)
    assert (item.normalization, item.use_mask_for_norm) == (("ct", "zscore"), (False, True))
    assert item.resampling == Resampling()
    assert item.target == Target(name="semantic", num_outputs=3)
    assert item.training.batch_dice
    assert item.training.mirror_axes == (1,)
    assert item.estimated_bytes > 0
    assert item.inputs == (Input(channels=2),)


def test_a_configuration_inherits_and_is_fed(plain):
    plan, _ = open_nnunet(plain.write())
    fed = plan.configuration("2d_cascade")
    assert fed.inputs == (Input(channels=2), Input(kind="previous", name="2d", channels=2, through="segmentation"))
    assert (fed.previous, fed.batch_size, fed.patch_size) == ("2d", 3, (16, 24))


def test_a_cascade_brings_the_weights_of_its_first_stage(plain):
    plain.checkpoint["inference_allowed_mirroring_axes"] = None
    plain.write(("0", "1"))
    plan, weights = open_nnunet(plain.beside("2d_cascade").write())
    assert list(weights) == [("2d_cascade", 0), ("2d", 0), ("2d", 1)]
    assert weights["2d_cascade", 0]["encoder.0.0.conv.weight"].shape[1] == 4
    assert torch.equal(weights["2d", 1]["encoder.0.0.conv.weight"], plain.weights["encoder.0.0.conv.weight"])
    axes = [item.training.mirror_axes for item in plan.configurations]
    assert axes == [(), (1,)], "each as its own checkpoints say"


def test_regions_and_ignore(plain):
    plain.dataset["labels"] = {"background": 0, "whole": [1, 2], "core": [2], "ignore": 3}
    plain.dataset["regions_class_order"] = [1, 2]
    weights = {name: value for name, value in plain.weights.items() if not name.startswith("heads")}
    weights |= {name: value[:2] for name, value in plain.weights.items() if name.startswith("heads")}
    plain.give(weights)
    plan, read = open_nnunet(plain.write())
    assert plan.labels.regions == (Region(name="whole", values=(1, 2)), Region(name="core", values=(2,)))
    assert plan.labels.region_values == (1, 2)
    assert plan.labels.ignore == 3
    assert plan.configuration("2d").target == Target(name="regions", num_outputs=2)
    assert plan.configuration("2d_cascade").inputs[1].channels == 2, "one per class, also where regions are predicted"
    assert read["2d", 0]["heads.0.conv.weight"].shape[0] == 2


def test_plans_of_earlier_versions(model):
    for item in model.plans["configurations"].values():
        described = item.pop("architecture", None)
        if described is None:
            continue
        settings = described["arch_kwargs"]
        item |= {
            "UNet_class_name": described["network_class_name"].rsplit(".", 1)[-1],
            "UNet_base_num_features": 4,
            "unet_max_num_features": 16,
            "n_conv_per_stage_encoder": [1, 2, 2],
            "n_conv_per_stage_decoder": settings["n_conv_per_stage_decoder"],
            "pool_op_kernel_sizes": settings["strides"],
            "conv_kernel_sizes": settings["kernel_sizes"],
        }
    measured = model.plans.pop("foreground_intensity_properties_per_channel")
    model.plans["foreground_intensity_properties_by_modality"] = measured
    item = model.plans["configurations"]["2d"]
    plan, _ = open_nnunet(model.write())
    assert plan.configuration("2d").architecture == model.architecture
    assert plan.channels[0].intensities is not None
    item["unet_max_num_features"] = 6
    with pytest.raises(ModelError, match="do not fit the network"):
        open_nnunet(model.write())


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
def test_prefixes_of_compiled_and_distributed_networks(plain, prefix):
    weights = plain.checkpoint["network_weights"]
    plain.checkpoint["network_weights"] = {prefix + name: value for name, value in weights.items()}
    _, read = open_nnunet(plain.write())
    assert list(read["2d", 0]) == list(plain.weights)


def test_the_final_checkpoint_comes_first(plain):
    folder = plain.write(name="checkpoint_best.pth")
    assert next(iter(open_nnunet(folder)[1].files.values())).name == "checkpoint_best.pth"
    plain.write()
    assert next(iter(open_nnunet(folder)[1].files.values())).name == "checkpoint_final.pth"


def test_resampling_is_read(plain):
    item = plain.plans["configurations"]["2d"]
    for kind in ("data", "seg", "probabilities"):
        item[f"resampling_fn_{kind}"] = "resample_torch_fornnunet"
        item[f"resampling_fn_{kind}_kwargs"] = {"is_seg": kind == "seg", "force_separate_z": False}
    plan, _ = open_nnunet(plain.write())
    found = plan.configuration("2d").resampling
    assert (found.image_order, found.label_order, found.logits_order) == (1, 1, 1)
    assert found.anisotropy_threshold > 1e6


def test_how_far_slices_lie_apart_is_read(plain):
    for kind in ("data", "seg", "probabilities"):
        plain.plans["configurations"]["2d"][f"resampling_fn_{kind}_kwargs"]["separate_z_anisotropy_threshold"] = 5
    assert open_nnunet(plain.write())[0].configuration("2d").resampling == Resampling(anisotropy_threshold=5.0)


def change(model, place, value):
    """Set what stands at a place such as ``plans.configurations.2d.batch_size``."""
    *path, last = place.split(".")
    entry = getattr(model, path.pop(0)) if path else model.__dict__
    for key in path:
        entry = entry[key]
    if value is None:
        del entry[last]
    else:
        entry[last] = value


NETWORK = "plans.configurations.2d.architecture"
FAULTS = {
    f"{NETWORK}.network_class_name": ("a.b.PrimusM", "its network is a PrimusM, which is not known"),
    f"{NETWORK}.arch_kwargs.dropout_op": ("torch.nn.Dropout3d", "setting dropout_op = 'torch.nn.Dropout3d'"),
    f"{NETWORK}.arch_kwargs.squeeze": (True, "setting squeeze = True"),
    f"{NETWORK}.arch_kwargs.norm_op_kwargs": ({"eps": 0.1, "affine": True}, "norms with {'eps': 0.1"),
    f"{NETWORK}.arch_kwargs.nonlin_kwargs": ({"negative_slope": 0.2}, "slope 0.2; known is 0.01"),
    f"{NETWORK}.arch_kwargs.features_per_stage": ([4, 8, 9], "the network needs 9"),
    f"{NETWORK}.arch_kwargs.strides": (None, "'strides' is missing in its plans"),
    "plans.configurations.2d.patch_size": ([15, 24], "the strides need a multiple of 2"),
    "plans.configurations.2d.normalization_schemes": (["Mine", "Mine"], "normalization Mine is not known"),
    "plans.configurations.2d.resampling_fn_data": ("no_resampling_hack", "resampling by no_resampling_hack"),
    "plans.configurations.2d.inherits_from": ("3d", "there is no configuration '3d'"),
    "plans.configurations.2d.previous_stage": ("2d_cascade", "previous_stage leads in a circle: 2d → 2d_cascade → 2d"),
    "plans.configurations": ({}, "there is no configuration '2d'"),
    "plans.configurations.2d.preprocessor_name": ("Mine", "preprocessor Mine is not known"),
    "plans.label_manager": ("Mine", "label manager Mine is not known"),
    "plans.dataset_name": (None, "'dataset_name' is missing in its plans"),
    "plans.transpose_forward": ([0, 0, 1], "is no permutation"),
    "dataset.labels": (None, "dataset.json has no labels"),
    "dataset.channel_names": (None, "dataset.json has no channel_names"),
    "checkpoint.network_weights": ({}, "encoder.0.0.conv.weight is missing"),
}


@pytest.mark.parametrize("place", FAULTS)
def test_what_cannot_be_understood_is_one_message(plain, place):
    value, message = FAULTS[place]
    change(plain, place, value)
    with pytest.raises(ModelError, match=re.escape(message)):
        open_nnunet(plain.write())


def test_another_configuration_that_is_not_known_is_left_out(plain):
    plain.plans["configurations"]["3d_mine"] = {"inherits_from": "2d", "architecture": {"network_class_name": "a.B"}}
    plain.plans["configurations"]["fed"] = {"inherits_from": "2d", "previous_stage": "3d_mine"}
    plan, _ = open_nnunet(plain.write())
    assert [item.name for item in plan.configurations] == ["2d", "2d_cascade"]
    told = [reason.because for reason in plan.reasons if reason.rule == "left-out"]
    assert any("3d_mine is left out" in text for text in told)
    assert any("fed is left out" in text for text in told)


def test_weights_of_two_names_must_agree(plain):
    weights = plain.checkpoint["network_weights"]
    name = "decoder.encoder.stages.1.0.convs.0.all_modules.1.weight"
    weights[name] = weights[name] + 1
    with pytest.raises(ModelError, match=rf"is damaged: {re.escape(name)} and another name of encoder\.1\.0\.norm"):
        open_nnunet(plain.write())


def test_a_strange_parameter_is_named(plain):
    plain.checkpoint["network_weights"]["encoder.attention.weight"] = torch.zeros(1)
    with pytest.raises(ModelError, match=r"holds encoder\.attention\.weight, which is no part of plain-unet"):
        open_nnunet(plain.write())


class Evil:
    def __reduce__(self):
        return pytest.fail, ("code has run",)


def test_a_checkpoint_that_would_run_code_is_refused(plain):
    plain.checkpoint["logging"] = Evil()
    with pytest.raises(ModelError, match="cannot be opened without running what it holds"):
        open_nnunet(plain.write())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot be read as a checkpoint|cannot be opened"),
        (b"not a checkpoint at all", "cannot be read as a checkpoint|cannot be opened"),
        (pickle.dumps({"network_weights": {}}), "cannot be read as a checkpoint|cannot be opened|is no checkpoint"),
    ],
)
def test_damaged_checkpoints_are_refused(plain, content, message):
    folder = plain.write()
    file = folder / "fold_0" / "checkpoint_final.pth"
    file.write_bytes(content)
    for path in (folder, file):
        with pytest.raises(ModelError, match=message):
            open_nnunet(path)


def test_other_things_in_a_checkpoint_are_refused(tmp_path):
    for content, message in (
        ([1, 2], "holds a list"),
        ({"network_weights": {}}, r"init_args\.plans is missing"),
        ({"init_args": {"plans": {}}}, r"init_args\.configuration is missing"),
    ):
        torch.save(content, tmp_path / "x.pth")
        with pytest.raises(ModelError, match=message):
            open_nnunet(tmp_path / "x.pth")


def test_a_cut_checkpoint_is_refused(plain):
    file = plain.write() / "fold_0" / "checkpoint_final.pth"
    file.write_bytes(file.read_bytes()[:-500])
    with pytest.raises(ModelError, match="cannot be read as a checkpoint"):
        open_nnunet(file)


def test_missing_pieces_are_named(plain):
    folder = plain.write()
    assert not is_nnunet(folder.parent)
    with pytest.raises(ModelError, match="does not exist"):
        open_nnunet(folder / "nothing")
    with pytest.raises(ModelError, match=r"no model folder of nnU-Net v2: plans\.json is missing"):
        open_nnunet(folder.parent)
    (folder / "dataset.json").write_text("{")
    with pytest.raises(ModelError, match=r"dataset\.json is not JSON"):
        open_nnunet(folder)
    plain.write()
    (folder / "fold_0" / "checkpoint_final.pth").unlink()
    with pytest.raises(ModelError, match="holds no trained fold"):
        open_nnunet(folder)


@pytest.mark.data
def test_the_kept_model(golden_folder):
    plan, weights = open_nnunet(golden_folder / "nnunet_hippocampus" / "model")
    assert [item.name for item in plan.configurations] == ["2d", "3d_fullres"]
    assert list(weights) == [("3d_fullres", 0)]
    assert plan.labels.names == ("background", "Anterior", "Posterior")
