from pathlib import Path

import pytest
import torch

from autoseg.errors import RunFolderError
from autoseg.run_folder import FoldFolder
from autoseg.training.fold_record import identity
from autoseg.training.fold_state import (
    Counters,
    append_progress,
    drop_progress,
    load_counters,
    load_state,
    read_progress,
    save_state,
    spent_s,
)
from autoseg.training.schedule import Bend


def make() -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.Conv2d(4, 2, 1))
    return network, torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, nesterov=True)


def steps(network: torch.nn.Module, optimizer: torch.optim.Optimizer, first: int, last: int) -> None:
    for index in range(first, last):
        generator = torch.Generator().manual_seed(index)
        optimizer.zero_grad()
        network(torch.randn(2, 1, 8, 8, generator=generator)).square().mean().backward()
        optimizer.step()


def test_going_on_from_a_saved_state_equals_never_having_stopped(tmp_path: Path) -> None:
    whole, optimizer = make()
    steps(whole, optimizer, 0, 6)
    first, optimizer = make()
    steps(first, optimizer, 0, 3)
    counters = Counters(epoch=1, step=2, loss_sum=0.1 + 0.2, ema_dice=1 / 3)
    save_state(tmp_path / "state", first, optimizer, counters)
    second, optimizer = make()
    assert load_state(tmp_path / "state", second, optimizer) == counters
    steps(second, optimizer, 3, 6)
    for a, b in zip(whole.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)


def test_damaged_state_is_named(tmp_path: Path) -> None:
    network, optimizer = make()
    path = tmp_path / "state.safetensors"
    save_state(path, network, optimizer, Counters())
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(RunFolderError, match=r"state\.safetensors cannot be used: .*Delete its folder"):
        load_state(path, network, optimizer)


def test_progress_lines_after_a_kill_are_replaced(tmp_path: Path) -> None:
    folder = FoldFolder(tmp_path)
    for epoch in (0, 1, 2, 1):
        append_progress(folder, {"epoch": epoch, "mean_dice": epoch / 10})
    assert [row["epoch"] for row in read_progress(folder)] == [0, 1]


def test_counters_are_read_without_tensors(tmp_path: Path) -> None:
    network, optimizer = make()
    path = tmp_path / "state.safetensors"
    bend = Bend(epoch=3, rate=0.1 / 3, end=9, planned=20, annealing=True)
    counters = Counters(epoch=3, step=1, seconds=4.5, lost_s=2.0, stalled=7, bend=bend)
    save_state(path, network, optimizer, counters)
    assert load_counters(path) == counters
    path.write_bytes(b"damaged")
    with pytest.raises(RunFolderError, match=r"state\.safetensors cannot be used"):
        load_counters(path)


def test_spent_are_finished_epochs_the_begun_one_and_what_was_lost(tmp_path: Path) -> None:
    rows = [{"epoch": epoch, "seconds": 10.0} for epoch in range(3)]
    assert spent_s(rows, Counters(epoch=3, seconds=4.0, lost_s=1.0)) == 35.0
    assert spent_s(rows, Counters(epoch=1, seconds=4.0)) == 30.0, "the rows tell of more than the state"
    folder = FoldFolder(tmp_path)
    for row in rows:
        append_progress(folder, row)
    drop_progress(folder, 1)
    assert [row["epoch"] for row in read_progress(folder)] == [0]


def test_identity_forgets_when_training_ends() -> None:
    base = {"batch_size": 2, "training": {"epochs": 10, "patience": None, "seed": 0}}
    stalling = {"batch_size": 2, "training": {"epochs": 10, "patience": 30, "seed": 0}}
    assert identity(base, [])[0] == identity(stalling, [])[0]


def test_identity_forgets_how_outputs_are_decoded_and_nothing_else_of_the_target() -> None:
    def of(**options: object) -> str:
        return identity({"training": {}, "target": {"name": "boundary", "options": options}}, [])[0]

    assert of(width=2, decode={"smallest": 5}) == of(width=2, decode={"smallest": 9}) == of(width=2)
    assert of(width=2) != of(width=1)


def test_identity_forgets_the_number_of_epochs_alone() -> None:
    base = {"batch_size": 2, "estimated_bytes": 5, "training": {"epochs": 10, "seed": 0}}
    longer = {"batch_size": 2, "estimated_bytes": 6, "training": {"epochs": 20, "seed": 0}}
    seeded = {"batch_size": 2, "estimated_bytes": 5, "training": {"epochs": 10, "seed": 1}}
    assert identity(base, ["a"]) == identity(longer, ["a"])
    assert identity(base, ["a"])[0] != identity(seeded, ["a"])[0]
    assert identity(base, ["a"])[1] != identity(base, ["b"])[1]
