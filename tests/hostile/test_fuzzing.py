"""Damaged files of every kind: each is taken, or refused in one line, in bounded time and memory, without a crash.

``AUTOSEG_HOSTILE_COUNT=100000 pytest -m slow tests/hostile`` is the long form.
"""

from collections.abc import Callable
from pathlib import Path

import pytest
from hostile_bytes import mutate, mutate_json, repacked
from hostile_driver import Worker, attack, seeded, wanted_count
from hostile_seeds import dataset_seeds, lay_dataset, weights_seed

IMAGES = [f"case.{ending}" for ending in ["nii", "nii.gz", "nrrd", "mha", "tif", "png", "jpg", "bmp", "gif", "dcm"]]
RECORDS = [f"{name}.json" for name in ["plan", "choice", "fingerprint", "run", "splits", "predictions"]]
DATASETS = ["dataset.json", "splits_final.json", "table.csv"]
Strays = Callable[[], set[str]]

SHORT, LONG = 300, 100_000
LENGTHS = [pytest.param(SHORT, id="short"), pytest.param(LONG, id="long", marks=pytest.mark.slow)]


def count_of(length: int) -> int:
    return length if length == SHORT else wanted_count(LONG)


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("name", IMAGES)
def test_images(
    name: str, length: int, worker: Worker, images: dict[str, list[bytes]], given: Path, strays: Strays
) -> None:
    chance, change = seeded(name, length), repacked if name.endswith(".gz") else mutate
    seeds = images[name]
    inputs = (change(chance.choice(seeds), chance) for _ in range(count_of(length)))
    found = attack(worker, given, "image", name, (*seeds, *inputs) if length == SHORT else inputs, strays)
    assert not found.complaints, str(found)
    assert found.endings["refused"] > 0.2 * sum(found.endings.values())
    assert found.endings["taken"] > 0


@pytest.mark.parametrize("name", ["case.png", "case.gif", "case.tif", "case.nii.gz"])
def test_labels(name: str, worker: Worker, images: dict[str, list[bytes]], given: Path, strays: Strays) -> None:
    chance, change = seeded("label", name), repacked if name.endswith(".gz") else mutate
    inputs = (change(chance.choice(images[name]), chance) for _ in range(100))
    found = attack(worker, given, "label", name, inputs, strays)
    assert not found.complaints, str(found)


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("name", RECORDS)
def test_records(
    name: str, length: int, model_worker: Worker, records: dict[str, bytes], given: Path, strays: Strays
) -> None:
    chance = seeded(name, length)
    inputs = (mutate_json(records[name], chance) for _ in range(count_of(length)))
    found = attack(model_worker, given, "record", name, inputs, strays)
    assert not found.complaints, str(found)
    assert min(found.endings["refused"], found.endings["taken"]) > 0


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("name", DATASETS)
def test_descriptions_of_datasets(name: str, length: int, worker: Worker, given: Path, strays: Strays) -> None:
    chance, seeds = seeded(name, length), dataset_seeds()[name]
    change = mutate if name == "table.csv" else mutate_json
    lay_dataset(given)
    inputs = (change(chance.choice(seeds), chance) for _ in range(count_of(length)))
    found = attack(worker, given, "dataset", name, inputs, strays)
    assert not found.complaints, str(found)
    assert min(found.endings["refused"], found.endings["taken"]) > 0


@pytest.mark.parametrize("length", LENGTHS)
def test_weights(length: int, model_worker: Worker, given: Path, strays: Strays) -> None:
    chance, seed = seeded("weights", length), weights_seed()
    inputs = (mutate(seed, chance, head=300) for _ in range(count_of(length)))
    found = attack(model_worker, given, "weights", "weights.safetensors", inputs, strays)
    assert not found.complaints, str(found)
    assert min(found.endings["refused"], found.endings["taken"]) > 0
