"""Weights come back as they were; what does not fit is named."""

import pytest
import torch
from torch import nn

from autoseg.errors import ModelError
from autoseg.networks import load_weights, put_weights, save_weights


def test_round_trip(tmp_path):
    network = nn.Conv3d(2, 3, 3).to(memory_format=torch.channels_last_3d)
    path = tmp_path / "deep" / "weights.safetensors"
    save_weights(path, network, {"step": "17", "configuration": "3d_fullres"})
    weights, meta = load_weights(path)
    assert meta == {"step": "17", "configuration": "3d_fullres"}
    assert {name: tuple(value.shape) for name, value in weights.items()} == {"weight": (3, 2, 3, 3, 3), "bias": (3,)}
    other = nn.Conv3d(2, 3, 3)
    put_weights(other, weights, path)
    assert torch.equal(other.weight, network.weight)
    assert torch.equal(other.bias, network.bias)
    assert [item.name for item in path.parent.iterdir()] == [path.name], "nothing unfinished is left"


def test_equal_weights_are_equal_files(tmp_path):
    network, meta = nn.Linear(2, 2), {name: name for name in "abcdefgh"}
    files = []
    for index in range(8):
        save_weights(tmp_path / str(index), network, meta)
        files.append((tmp_path / str(index)).read_bytes())
    assert len(set(files)) == 1


def test_meta_may_be_empty(tmp_path):
    save_weights(tmp_path / "weights.safetensors", nn.Linear(2, 2), {})
    assert load_weights(tmp_path / "weights.safetensors")[1] == {}


def test_differences_are_named(tmp_path):
    network = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    weights = {name: value + 1 for name, value in before.items()}
    del weights["1.bias"]
    weights["0.weight"] = torch.zeros(3, 4)
    weights["head.weight"] = torch.zeros(1)
    with pytest.raises(ModelError, match=r"1\.bias is missing; head\.weight is not part .*; 0\.weight has shape 3×4"):
        put_weights(network, weights, "fold_0")
    assert all(torch.equal(network.state_dict()[name], value) for name, value in before.items()), "unchanged"


@pytest.mark.parametrize("content", [None, b"", b"not weights at all, but long enough to look"])
def test_damaged_files_are_refused(tmp_path, content):
    path = tmp_path / "weights.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ModelError, match="cannot be read as weights"):
        load_weights(path)
