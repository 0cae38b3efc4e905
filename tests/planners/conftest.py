"""Fingerprints and plans that the planners' tests share."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from planners import PLANNERS, Channel, Fingerprint, LabelClass, Labels, MemoryBudget, Plan
from planners.records import from_json

KEPT = Path(__file__).parent / "kept_plans.json"

KEPT_OBJECTS = Path(__file__).parent / "kept_objects.json"
"""Fingerprints of objects: nuclei in pictures (every sixth of 244 of the Data Science Bowl 2018), ellipsoids in volumes
of thick slices (``autoseg.data.demo_objects``)."""

MakeFingerprint = Callable[..., Fingerprint]


def name_labels(*names: str) -> Labels:
    return Labels(classes=tuple(LabelClass(name=name, value=value) for value, name in enumerate(names)))


def fingerprint_like_hippocampus(**changes: Any) -> Fingerprint:
    """The small isotropic example of the documents, but for the changes."""
    facts: dict[str, Any] = {
        "dataset": "hippocampus",
        "channels": (Channel(name="MRI"),),
        "labels": name_labels("background", "anterior", "posterior"),
        "num_cases": 208,
        "spacings_mm": ((1.0, 1.0, 1.0),) * 208,
        "shapes": ((36, 50, 35),) * 208,
    }
    return Fingerprint(**{**facts, **changes})


def fingerprint_like_prostate() -> Fingerprint:
    """Thick slices: the anisotropic example of the documents."""
    return fingerprint_like_hippocampus(
        dataset="prostate",
        channels=(Channel(name="T2"), Channel(name="ADC")),
        labels=name_labels("background", "peripheral", "transition"),
        num_cases=32,
        spacings_mm=((3.6, 0.625, 0.625),) * 32,
        shapes=((20, 320, 319),) * 32,
    )


def fingerprint_like_retina() -> Fingerprint:
    """A 2D dataset of RGB images."""
    return fingerprint_like_hippocampus(
        dataset="retina",
        channels=tuple(Channel(name=name) for name in "RGB"),
        labels=name_labels("background", "vessel"),
        num_cases=20,
        spacings_mm=((999.0, 1.0, 1.0),) * 20,
        shapes=((1, 584, 565),) * 20,
    )


def fingerprint_like_liver() -> Fingerprint:
    """Large volumes, of which a patch sees little: the cascade of the documents."""
    return fingerprint_like_hippocampus(
        dataset="liver",
        channels=(Channel(name="CT"),),
        labels=name_labels("background", "liver", "tumour"),
        num_cases=131,
        spacings_mm=((1.0, 0.7676, 0.7676),) * 131,
        shapes=((482, 512, 512),) * 131,
    )


def read_kept(entry: dict[str, Any]) -> tuple[Fingerprint, MemoryBudget]:
    facts = entry["fingerprint"]
    fingerprint = Fingerprint(
        dataset=facts["family"],
        channels=tuple(Channel(name=name) for name in facts["channel_names"]),
        labels=name_labels(*(f"class_{index}" for index in range(facts["n_label_values"]))),
        num_cases=facts["n_training_cases"],
        spacings_mm=tuple(tuple(spacing) for spacing in facts["spacings_mm"]),
        shapes=tuple(tuple(shape) for shape in facts["shapes_voxels"]),
        cropped_fraction=facts["median_relative_size_after_cropping"],
    )
    return fingerprint, MemoryBudget(device_bytes=round(entry["gpu_memory_gb"] * 1e9))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test that asks for ``kept`` on every kept plan, named by dataset, planner and memory."""
    if "kept" in metafunc.fixturenames:
        entries = json.loads(KEPT.read_text())
        ids = [f"{e['fingerprint']['family']}-{e['planner']}-{e['gpu_memory_gb']:g}GB" for e in entries]
        plans = [(*read_kept(entry), {"planner": entry["planner"], **entry["plan"]}) for entry in entries]
        metafunc.parametrize("kept", plans, ids=ids)
    if "kept_objects" in metafunc.fixturenames:
        facts = read_kept_objects()
        metafunc.parametrize("kept_objects", [(item, MemoryBudget()) for item in facts.values()], ids=list(facts))


def read_kept_objects() -> dict[str, Fingerprint]:
    return {name: from_json(Fingerprint, value) for name, value in json.loads(KEPT_OBJECTS.read_text()).items()}


@pytest.fixture
def nuclei() -> Fingerprint:
    return read_kept_objects()["nuclei"]


@pytest.fixture
def ellipsoids() -> Fingerprint:
    return read_kept_objects()["ellipsoids"]


@pytest.fixture
def kept_facts() -> list[tuple[str, Fingerprint, MemoryBudget]]:
    """Planner, fingerprint and budget of all kept plans, for tests that choose among them."""
    return [(entry["planner"], *read_kept(entry)) for entry in json.loads(KEPT.read_text())]


@pytest.fixture
def make_fingerprint() -> MakeFingerprint:
    return fingerprint_like_hippocampus


EXAMPLES: dict[str, Callable[[], Plan]] = {
    "hippocampus": lambda: PLANNERS["default"](fingerprint_like_hippocampus(), MemoryBudget()),
    "prostate": lambda: PLANNERS["default"](fingerprint_like_prostate(), MemoryBudget()),
    "liver": lambda: PLANNERS["default"](fingerprint_like_liver(), MemoryBudget()),
    "retina": lambda: PLANNERS["default"](fingerprint_like_retina(), MemoryBudget(device_bytes=6 * 10**9)),
}
"""Plans of the documents."""


@pytest.fixture
def liver_facts() -> Fingerprint:
    return fingerprint_like_liver()


@pytest.fixture
def hippocampus() -> Plan:
    return EXAMPLES["hippocampus"]()


@pytest.fixture
def prostate() -> Plan:
    return EXAMPLES["prostate"]()


@pytest.fixture
def liver() -> Plan:
    return EXAMPLES["liver"]()


@pytest.fixture
def retina() -> Plan:
    return EXAMPLES["retina"]()
