"""What nnU-Net v2 calls the parameters of our networks: all names of each.

A block holds its convolution and its norm once by name and once more in a sequence (``all_modules``), and the decoder
holds the encoder: nnU-Net's own loading asks for every one of them.

Source: the package dynamic_network_architectures 0.4.4 (facts about names).
"""

from collections.abc import Mapping, Sequence

from torch import Tensor

from planners.plan import Architecture

PARTS = {"conv": "all_modules.0", "norm": "all_modules.1"}
INNER = {"first": "conv1", "second": "conv2"}


def their_weights(
    weights: Mapping[str, Tensor], architecture: Architecture, heads: Sequence[int] | None = None
) -> dict[str, Tensor]:
    """Give the weights of one of our networks under all names that nnU-Net's network has.

    Args:
        weights: by our names.
        architecture: whose they are.
        heads: per output channel of theirs, ours; None: alike.

    Returns:
        By their names; several names share one tensor, which is then stored once.
    """
    named: dict[str, Tensor] = {}
    for name, value in weights.items():
        ordered = value[list(heads)].contiguous() if heads is not None and name.startswith("heads.") else value
        named.update(dict.fromkeys(their_names(name, architecture), ordered))
    return named


def their_names(name: str, architecture: Architecture) -> tuple[str, ...]:
    """Give all names that nnU-Net has for a parameter of ours.

    Args:
        name: as in the ``state_dict`` of our network.
        architecture: of that network.
    """
    part, stage, *rest = name.split(".")
    if part in ("heads", "upsample"):
        theirs = "seg_layers" if part == "heads" else "transpconvs"
        return (f"decoder.{theirs}.{_from_below(stage, architecture)}.{rest[-1]}",)
    *place, layer, kind = rest  # such as 0 conv weight, or 1 shortcut project conv weight
    if part == "decoder":
        block = f"decoder.stages.{_from_below(stage, architecture)}.convs.{place[0]}"
        return tuple(f"{block}.{layer_name}.{kind}" for layer_name in (layer, PARTS[layer]))
    block = _encoder_block(int(stage), place, architecture)
    own = tuple(f"{block}.{layer_name}.{kind}" for layer_name in (layer, PARTS[layer]))
    return (*own, *(f"decoder.{item}" for item in own))


def _from_below(stage: str, architecture: Architecture) -> int:
    """Count a decoder stage as nnU-Net does: the deepest first."""
    return len(architecture.stages) - 2 - int(stage)


def _encoder_block(stage: int, place: Sequence[str], architecture: Architecture) -> str:
    if place[0] == "stem":
        return "encoder.stem.convs.0"
    if len(place) == 1:
        return f"encoder.stages.{stage}.0.convs.{place[0]}"
    block = f"encoder.stages.{stage}.blocks.{place[0]}"
    if place[1] in INNER:
        return f"{block}.{INNER[place[1]]}"
    pooled = max(architecture.stages[stage].stride) > 1  # then the projection stands behind the pooling
    return f"{block}.skip.{int(pooled)}"
