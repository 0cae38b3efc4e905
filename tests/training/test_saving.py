"""Saving on the way: the same files at once and by the thread, what training waits for, faults of the thread."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from autoseg.errors import RunFolderError
from autoseg.networks.checkpoint import load_weights
from autoseg.run_folder import FoldFolder
from autoseg.training import saving
from autoseg.training.fold_state import Counters, load_state
from autoseg.training.saving import BRIEF_S, Saver

META = {"step": "3", "configuration": "tiny"}


class Clock:
    """Seconds that pass only when a file is written."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def make() -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv3d(2, 4, 3), nn.Conv3d(4, 2, 1)).to(memory_format=torch.channels_last_3d)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, nesterov=True)
    step(network, optimizer)
    return network, optimizer


def step(network: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    network(torch.ones(1, 2, 6, 6, 6)).square().mean().backward()
    optimizer.step()


def slow(monkeypatch: pytest.MonkeyPatch, clock: Clock, seconds: float) -> list[Path]:
    """Let every state take some seconds to write; give the states that were written."""
    write, written = saving.write_state, []

    def writing(path: Path, *arguments: object) -> None:
        clock.now += seconds
        write(path, *arguments)
        written.append(path)

    monkeypatch.setattr(saving, "write_state", writing)
    return written


def test_a_quick_save_is_made_at_once(tmp_path: Path) -> None:
    network, optimizer = make()
    folder = FoldFolder(tmp_path / "fold")
    saver = Saver(folder, Clock())
    saver.save(network, optimizer, Counters(step=3), META)
    saver.save_best(network, META)
    assert load_weights(folder.weights_last)[1] == META
    assert folder.weights_last.read_bytes() == folder.weights_best.read_bytes()
    other, its_optimizer = make()
    step(other, its_optimizer)
    assert load_state(folder.state, other, its_optimizer).step == 3
    for ours, saved in zip(network.state_dict().values(), other.state_dict().values(), strict=True):
        assert torch.equal(ours, saved)


def test_a_slow_save_is_written_by_a_thread_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network, optimizer = make()
    clock, folder, other = Clock(), FoldFolder(tmp_path / "slow"), FoldFolder(tmp_path / "quick")
    written = slow(monkeypatch, clock, 2 * BRIEF_S)
    saver = Saver(folder, clock)
    saver.save(network, optimizer, Counters(step=1), META)  # the first is waited for: nobody knows how slow it is
    assert written == [folder.state]
    assert saver.newly_waited_s() == pytest.approx(2 * BRIEF_S)
    step(network, optimizer)
    saver.save(network, optimizer, Counters(step=2), META)
    Saver(other, Clock()).save(network, optimizer, Counters(step=2), META)
    step(network, optimizer)  # goes on while the thread writes what was there before
    saver.close()
    states = [load_file(each.state) for each in (folder, other)]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    assert folder.weights_last.read_bytes() == other.weights_last.read_bytes()
    assert not torch.equal(load_weights(folder.weights_last)[0]["0.weight"], network.state_dict()["0.weight"])


def test_a_fault_of_the_thread_is_raised_in_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network, optimizer = make()
    clock = Clock()
    slow(monkeypatch, clock, 2 * BRIEF_S)
    saver = Saver(FoldFolder(tmp_path), clock)
    saver.save(network, optimizer, Counters(), META)

    def fail(path: Path, *arguments: object) -> None:
        raise RunFolderError("the disk is full")

    monkeypatch.setattr(saving, "write_state", fail)
    saver.save(network, optimizer, Counters(), META)
    with pytest.raises(RunFolderError, match="the disk is full"):
        saver.save(network, optimizer, Counters(), META)
    saver.close()  # it was told once


def test_little_waiting_in_all_needs_no_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network, optimizer = make()
    clock = Clock()
    written = slow(monkeypatch, clock, 2 * BRIEF_S)
    saver = Saver(FoldFolder(tmp_path), clock)
    for count in (1, 2, 3):
        saver.save(network, optimizer, Counters(), META)
        assert len(written) == count
        clock.now += 1000.0  # of training
