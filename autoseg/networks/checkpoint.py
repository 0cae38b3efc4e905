"""Weights on disk: safetensors files, which hold numbers and text and cannot run code."""

import hashlib
import json
import zlib
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from autoseg.errors import ModelError
from autoseg.run_folder import write_atomic
from planners.records import from_json, parse

META = "autoseg"
"""Key of the text beside the weights."""

CHECKSUM = "crc32"
"""Key, within that text, of the checksum of the weights; files of before have none."""

SHOWN = 3
"""How many differences an error message names."""


def save_weights(path: Path, network: nn.Module, meta: Mapping[str, str]) -> None:
    """Write a network's weights, whole or not at all.

    Args:
        path: the file.
        network: on any device.
        meta: text to keep beside them, such as the step.
    """
    write_weights(path, network.state_dict(), meta)


def write_weights(path: Path, weights: Mapping[str, Tensor], meta: Mapping[str, str]) -> None:
    """Write named weights, as :func:`save_weights` does."""
    tensors = {name: value.detach().to("cpu").contiguous() for name, value in weights.items()}
    meta = {**meta, CHECKSUM: checksum(tensors)}
    # One entry: safetensors writes several in an order that changes from run to run, and equal weights are equal files.
    write_atomic(path, save(tensors, metadata={META: json.dumps(meta, sort_keys=True)}))


def load_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read weights and the text beside them.

    Raises:
        ModelError: the file is missing or damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            meta = from_json(dict[str, str], parse((file.metadata() or {}).get(META, "{}")))
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except (OSError, ValueError, SafetensorError) as fault:
        raise ModelError(f"{path} cannot be read as weights: {fault}. Train again, or copy the file anew") from fault
    wanted = meta.pop(CHECKSUM, None)
    if wanted is not None and checksum(weights) != wanted:
        raise ModelError(
            f"{path} is damaged: its weights are not those that were written. Copy the file anew, or train again"
        )
    return weights, meta


def checksum(tensors: Mapping[str, Tensor]) -> str:
    """Give the checksum of named tensors in main memory: 8 hexadecimal digits of a CRC-32."""
    value = 0
    for name in sorted(tensors):
        value = zlib.crc32(name.encode(), value)
        value = zlib.crc32(tensors[name].contiguous().reshape(-1).view(torch.uint8).numpy().data, value)
    return f"{value:08x}"


def weights_digest(path: Path) -> str:
    """Identify a file of weights by its bytes: 16 hexadecimal digits of its SHA-256. Equal weights are equal files.

    Raises:
        ModelError: the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:16]
    except OSError as fault:
        raise ModelError(f"{path} cannot be read: {fault.strerror}. Give a file of weights") from fault


def put_weights(network: nn.Module, weights: Mapping[str, Tensor], source: object) -> None:
    """Give a network its weights; every one must be there and fit.

    Args:
        network: changed in place.
        weights: by parameter name.
        source: where they come from, for the message.

    Raises:
        ModelError: names or shapes differ; the message lists the first of them. The network is unchanged.
    """
    check_weights(network, weights, source)
    with torch.no_grad():
        network.load_state_dict(dict(weights))


def check_weights(network: nn.Module, weights: Mapping[str, Tensor], source: object) -> None:
    """Check that weights are complete and fit a network, which may be on torch's meta device.

    Raises:
        ModelError: as in :func:`put_weights`.
    """
    wanted = network.state_dict()
    faults = [f"{name} is missing" for name in wanted if name not in weights]
    faults += [f"{name} is not part of the network" for name in weights if name not in wanted]
    for name, value in wanted.items():
        if name in weights and weights[name].shape != value.shape:
            faults.append(f"{name} has shape {_times(weights[name])}, the network needs {_times(value)}")
    if faults:
        more = f" and {len(faults) - SHOWN} more" if len(faults) > SHOWN else ""
        raise ModelError(
            f"the weights of {source} do not fit the network: {'; '.join(faults[:SHOWN])}{more}. "
            "Use the plan that they were trained with"
        )


def _times(tensor: Tensor) -> str:
    return "×".join(map(str, tensor.shape)) or "()"
