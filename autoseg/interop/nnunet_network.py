"""The networks of nnU-Net v2: their settings as an Architecture, and the names of their parameters.

Source: the packages dynamic_network_architectures 0.4.4 and nnU-Net v2.8.1 (facts about settings and names).
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from autoseg.errors import ModelError
from autoseg.networks import build_network, check_weights
from planners.network_size import PLAIN_UNET, RESIDUAL_ENCODER_UNET
from planners.plan import Architecture, Configuration, Stage
from planners.presets import supervise
from planners.records import PlanError

FAMILIES = {"PlainConvUNet": PLAIN_UNET, "ResidualEncoderUNet": RESIDUAL_ENCODER_UNET}
"""By the last part of ``network_class_name``."""

FIXED: Mapping[str, tuple[Any, ...]] = {
    "conv_bias": (True,),
    "dropout_op": (None,),
    "nonlin_first": (False,),
    "block": (None, "BasicBlockD"),
    "bottleneck_channels": (None,),
    "stem_channels": (None,),
    "norm_op": ("InstanceNorm2d", "InstanceNorm3d"),
    "nonlin": ("LeakyReLU",),
}
"""Settings that our networks have once and for all, with the values that mean the same; others are refused."""

SHAPING = ("n_stages", "features_per_stage", "kernel_sizes", "strides", "n_conv_per_stage_decoder", "conv_op")
DEPTHS = ("n_conv_per_stage", "n_blocks_per_stage")
SILENT = ("dropout_op_kwargs", "norm_op_kwargs", "nonlin_kwargs", "deep_supervision")


def read_architecture(content: Mapping[str, Any], dimensions: int) -> Architecture:
    """Make an Architecture of the network that a configuration describes.

    Args:
        content: one configuration of ``plans.json``, with what it inherits.
        dimensions: 2 or 3.

    Raises:
        PlanError: it is another network, or has a setting that ours do not have.
    """
    described = content.get("architecture") or _modern(content)
    name, settings = described["network_class_name"].rsplit(".", 1)[-1], described["arch_kwargs"]
    if name not in FAMILIES:
        raise PlanError(f"its network is a {name}, which is not known (known: {', '.join(FAMILIES)})")
    _check(settings, name)
    count = int(settings["n_stages"])
    strides = _per_axis(settings["strides"], count, dimensions)
    depth = settings["n_blocks_per_stage" if name == "ResidualEncoderUNet" else "n_conv_per_stage"]
    stages = zip(
        _per_stage(settings["features_per_stage"], count),
        _per_axis(settings["kernel_sizes"], count, dimensions),
        strides,
        _per_stage(depth, count),
        strict=True,
    )
    return Architecture(
        family=FAMILIES[name],
        dimensions=dimensions,
        stages=tuple(Stage(features=f, kernel=k, stride=s, num_blocks=b) for f, k, s, b in stages),
        num_decoder_blocks=_per_stage(settings["n_conv_per_stage_decoder"], count - 1)[::-1],  # theirs: deepest first
        outputs=supervise(strides),
    )


def rename(weights: Mapping[str, Tensor], configuration: Configuration, source: object) -> dict[str, Tensor]:
    """Give the weights of an nnU-Net v2 network under our names.

    nnU-Net names every convolution and norm twice, and the encoder's once more within the decoder.

    Args:
        weights: ``network_weights`` of a checkpoint.
        configuration: whose network it is.
        source: the file, for messages.

    Raises:
        ModelError: a parameter has a name that such a network has not, two names of one parameter hold different
            numbers, one is missing, or a shape differs.
    """
    last = len(configuration.architecture.stages) - 2
    ours: dict[str, Tensor] = {}
    for theirs, value in weights.items():
        name = our_name(theirs, last)
        if name is None:
            raise ModelError(f"{source} holds {theirs}, which is no part of {configuration.architecture.family}")
        known = ours.setdefault(name, value)
        if known is not value and not _same(known, value):
            raise ModelError(f"{source} is damaged: {theirs} and another name of {name} hold different numbers")
    with torch.device("meta"):
        network = build_network(
            configuration.architecture, configuration.num_input_channels, configuration.target.num_outputs
        )
    check_weights(network, ours, source)
    return {name: ours[name].detach().to("cpu", torch.float32, copy=True).contiguous() for name in network.state_dict()}


def our_name(theirs: str, last: int) -> str | None:
    """Map a parameter's name in nnU-Net's network to ours, or None where no such name is known.

    Args:
        theirs: any of the names that it has there.
        last: number of the deepest decoder stage, counted from full resolution.
    """
    name = re.sub(r"^(module\.|_orig_mod\.)+", "", theirs)
    name = re.sub(r"\.all_modules\.0\.", ".conv.", re.sub(r"\.all_modules\.1\.", ".norm.", name))
    name = name.removeprefix("decoder.") if name.startswith("decoder.encoder.") else name
    for pattern, ours in _NAMES:
        if match := pattern.fullmatch(name):
            parts = match.groupdict()
            if "up" in parts:
                parts["stage"] = str(last - int(parts.pop("up")))
            return ours.format(**parts)
    return None


def _patterns() -> tuple[tuple[re.Pattern[str], str], ...]:
    block = r"(?P<rest>(?:conv|norm)\.(?:weight|bias))"
    end = r"(?P<rest>weight|bias)"
    return (
        (re.compile(rf"encoder\.stem\.convs\.0\.{block}"), "encoder.0.stem.{rest}"),
        (
            re.compile(rf"encoder\.stages\.(?P<stage>\d+)\.0\.convs\.(?P<block>\d+)\.{block}"),
            "encoder.{stage}.{block}.{rest}",
        ),
        (
            re.compile(rf"encoder\.stages\.(?P<stage>\d+)\.blocks\.(?P<block>\d+)\.conv1\.{block}"),
            "encoder.{stage}.{block}.first.{rest}",
        ),
        (
            re.compile(rf"encoder\.stages\.(?P<stage>\d+)\.blocks\.(?P<block>\d+)\.conv2\.{block}"),
            "encoder.{stage}.{block}.second.{rest}",
        ),
        (
            re.compile(rf"encoder\.stages\.(?P<stage>\d+)\.blocks\.(?P<block>\d+)\.skip\.[01]\.{block}"),
            "encoder.{stage}.{block}.shortcut.project.{rest}",
        ),
        (
            re.compile(rf"decoder\.stages\.(?P<up>\d+)\.convs\.(?P<block>\d+)\.{block}"),
            "decoder.{stage}.{block}.{rest}",
        ),
        (re.compile(rf"decoder\.transpconvs\.(?P<up>\d+)\.{end}"), "upsample.{stage}.conv.{rest}"),
        (re.compile(rf"decoder\.seg_layers\.(?P<up>\d+)\.{end}"), "heads.{stage}.conv.{rest}"),
    )


_NAMES = _patterns()


def _same(one: Tensor, other: Tensor) -> bool:
    alike = one.shape == other.shape and one.dtype == other.dtype
    return alike and (
        (one.data_ptr() == other.data_ptr() and one.stride() == other.stride()) or torch.equal(one, other)
    )


def _check(settings: Mapping[str, Any], name: str) -> None:
    for key, value in settings.items():
        known = key in (*SHAPING, *DEPTHS, *SILENT)
        plain = value.rsplit(".", 1)[-1] if isinstance(value, str) else value
        if not known and (key not in FIXED or plain not in FIXED[key]):
            raise PlanError(f"its {name} has the setting {key} = {value!r}, which is not known here")
    norm, slope = settings.get("norm_op_kwargs") or {}, settings.get("nonlin_kwargs") or {}
    if norm.get("eps", 1e-5) != 1e-5 or not norm.get("affine", False):
        raise PlanError(f"its {name} has norms with {norm}; known are eps 1e-05, affine true")
    if slope.get("negative_slope", 0.01) != 0.01:
        raise PlanError(f"its {name} has the slope {slope['negative_slope']}; known is 0.01")


def _modern(content: Mapping[str, Any]) -> dict[str, Any]:
    """Word the network as nnU-Net 2.4 and later do, where an earlier version wrote the plans."""
    strides = content["pool_op_kernel_sizes"]
    widest, base = content["unet_max_num_features"], content["UNet_base_num_features"]
    name = content["UNet_class_name"]
    residual = name.startswith("ResidualEncoder")
    return {
        "network_class_name": name,
        "arch_kwargs": {
            "n_stages": len(strides),
            "features_per_stage": [min(base * 2**index, widest) for index in range(len(strides))],
            "kernel_sizes": content["conv_kernel_sizes"],
            "strides": strides,
            "n_blocks_per_stage" if residual else "n_conv_per_stage": content["n_conv_per_stage_encoder"],
            "n_conv_per_stage_decoder": content["n_conv_per_stage_decoder"],
            "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        },
    }


def _per_stage(value: int | Sequence[int], count: int) -> tuple[int, ...]:
    return (value,) * count if isinstance(value, int) else tuple(int(item) for item in value)


def _per_axis(value: Any, count: int, dimensions: int) -> tuple[tuple[int, ...], ...]:
    stages = [value] * count if isinstance(value, int) else value
    return tuple((item,) * dimensions if isinstance(item, int) else tuple(map(int, item)) for item in stages)
