"""Device, precision, memory format: what is chosen, what is refused, and that a choice can be kept."""

import json
import os

import pytest
import torch
from torch import nn

from autoseg import compute as computing
from autoseg import native
from autoseg.compute import Compute
from autoseg.errors import DeviceError, OptionError
from autoseg.native import measured
from planners import records

TIMES = {"fp32": 0.003, "fp32 compiled": 0.001, "bf16": 0.002}


@pytest.fixture(autouse=True)
def keep_threads():
    """Put back the number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def own_measurements(monkeypatch):
    """What tests make up is kept from the user's folder."""
    kept = {}
    monkeypatch.setattr(measured, "recall", lambda facts: kept.get(repr(facts)))
    monkeypatch.setattr(measured, "remember", lambda facts, found: kept.update({repr(facts): dict(found)}))


@pytest.fixture
def no_gpu(monkeypatch):
    """A machine without any."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


def race(times, notes=None):
    return lambda bf16: ({name: t for name, t in times.items() if bf16 or name != "bf16"}, notes or {})


@pytest.mark.usefixtures("no_gpu")
def test_a_choice_is_a_record_with_reasons():
    chosen = computing.choose()
    assert chosen.device == "cpu"
    assert chosen.channels_last
    assert chosen.threads >= 1
    assert len(chosen.reasons) == 2
    assert chosen.precision in chosen.reasons[1]
    text = json.dumps(records.to_json(chosen))
    assert records.from_json(Compute, json.loads(text)) == chosen


@pytest.mark.usefixtures("no_gpu")
@pytest.mark.parametrize(
    ("amx", "times", "precision", "compiled"),
    [
        (False, TIMES, "fp32", True),
        (False, {**TIMES, "fp32 compiled": 0.01, "bf16": 0.0001}, "fp32", False),
        (True, TIMES, "fp32", True),
        (True, {**TIMES, "bf16": 0.0005}, "bf16", True),
        (True, {"fp32": 0.003, "bf16": 0.002}, "bf16", False),
    ],
)
def test_the_fastest_sound_way_wins_on_a_cpu(monkeypatch, amx, times, precision, compiled):
    monkeypatch.setattr(computing, "has_amx", lambda: amx)
    notes = {} if "fp32 compiled" in times else {"compiled": "no compiler"}
    monkeypatch.setattr(computing, "_race", race(times, notes))
    monkeypatch.setattr(native, "kernels", lambda: native.Kernels(object(), ""))
    chosen = computing.choose("cpu")
    assert (chosen.precision, chosen.native) == (precision, compiled)
    assert "the fastest here" in chosen.reasons[-1]
    assert ("no AMX" in chosen.reasons[-1]) is not amx


@pytest.mark.parametrize(("second", "kept"), [(0.003, True), (0.0011, False)])
def test_a_race_is_recalled_where_it_was_decisive(monkeypatch, second, kept):
    monkeypatch.setattr(native, "kernels", lambda: native.Kernels(object(), ""))
    monkeypatch.setattr(computing, "_race", race({"fp32": second, "fp32 compiled": 0.001}))
    first = computing.choose("cpu", "fp32", recall=True)
    monkeypatch.setattr(computing, "_race", race({"fp32": 0.001, "fp32 compiled": 1.0}))
    assert (computing.choose("cpu", "fp32", recall=True) == first) is kept
    assert not computing.choose("cpu", "fp32").native, "unless it is allowed, the race is run"


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_precision_that_is_asked_for_is_taken(monkeypatch, precision):
    monkeypatch.setattr(computing, "_race", race({**TIMES, "fp32": 1.0, "fp32 compiled": 2.0}))
    chosen = computing.choose("cpu", precision)
    assert chosen.precision == precision
    assert "as asked" in chosen.reasons[-1]


def test_compiled_operators_that_compute_wrongly_are_left_out(monkeypatch):
    monkeypatch.setattr(computing, "_compiled_convolution", lambda image, weight: lambda: torch.zeros_like(image))
    times, notes = computing._race(bf16=False)
    assert set(times) == {"fp32"}
    assert "wrong" in notes["compiled"]


def test_without_compiler_torch_computes(monkeypatch):
    monkeypatch.setattr(native, "kernels", lambda: native.Kernels(None, "there is no C compiler"))
    chosen = computing.choose("cpu")
    assert not chosen.native
    assert "there is no C compiler" in chosen.reasons[-1]


@pytest.mark.usefixtures("no_gpu")
@pytest.mark.parametrize(
    ("device", "precision", "error", "words"),
    [
        ("cuda", "auto", DeviceError, "cuda is not there .*--device cpu"),
        ("mps", "auto", DeviceError, "mps is not there"),
        ("gpu", "auto", DeviceError, "no device is named 'gpu'"),
        ("cpu", "fp16", DeviceError, "not fp16"),
        ("cpu", "fp8", OptionError, "known: auto, fp32, bf16, fp16"),
    ],
)
def test_what_cannot_be_is_said(device, precision, error, words):
    with pytest.raises(error, match=words):
        computing.choose(device, precision)


@pytest.mark.usefixtures("no_gpu")
def test_a_kept_choice_needs_its_device():
    kept = Compute(device="cuda", precision="bf16", channels_last=False, threads=1)
    with pytest.raises(DeviceError, match="not there"):
        computing.prepare(kept)


def test_preparing_sets_the_threads(monkeypatch):
    monkeypatch.setattr(native, "keep_memory", lambda: True)
    computing.prepare(Compute(device="cpu", precision="fp32", channels_last=True, threads=2))
    assert torch.get_num_threads() == 2


def test_missing_compiled_operators_are_said_not_fatal(monkeypatch, capsys):
    monkeypatch.setattr(native, "keep_memory", lambda: True)
    monkeypatch.setattr(native, "kernels", lambda: native.Kernels(None, "no compiler"))
    computing.prepare(Compute(device="cpu", precision="fp32", channels_last=True, threads=1, native=True))
    assert "no compiler" in capsys.readouterr().err


def test_threads_follow_the_environment_and_the_container(monkeypatch):
    torch.set_num_threads(8)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert computing.count_threads() == 3
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr(computing.os, "sched_getaffinity", lambda _: set(range(6)), raising=False)
    monkeypatch.setattr(computing, "_cgroup_quota", lambda: None)
    assert computing.count_threads() == 6
    monkeypatch.setattr(computing, "_cgroup_quota", lambda: 2)
    assert computing.count_threads() == 2


def test_a_fake_gpu_that_computes_wrongly_falls_back(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Fake")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: True)
    errors = {"bf16": 1.0, "fp16": 1e-3, "fp32": 1e-6}
    monkeypatch.setattr(computing, "convolution_error", lambda place, precision: errors[precision])
    chosen = computing.choose()
    assert (chosen.device, chosen.precision, chosen.channels_last) == ("cuda", "fp16", False)
    assert any("not bf16" in reason for reason in chosen.reasons)
    errors.update(fp16=0.5, fp32=0.5)
    with pytest.raises(DeviceError, match="computes wrongly"):
        computing.choose()
    with pytest.raises(DeviceError, match="from cuda:0"):
        computing.choose("cuda:1")


def test_the_self_test_passes_here():
    assert computing.convolution_error(torch.device("cpu"), "fp32") < 1e-5
    assert computing.convolution_error(torch.device("cpu"), "bf16") < computing.TOLERANCES["bf16"]


@pytest.mark.gpu
def test_a_real_gpu_is_chosen():
    chosen = computing.choose()
    assert chosen.device == "cuda"
    assert chosen.precision in ("bf16", "fp16")


def test_things_are_placed():
    compute = Compute(device="cpu", precision="bf16", channels_last=True, threads=1, native=True)
    network = nn.Sequential(nn.Conv3d(4, 8, 3), nn.Conv2d(4, 8, 3))
    network[0].native = False
    placed = computing.place(network, compute)
    assert placed is network
    assert network[0].weight.is_contiguous(memory_format=torch.channels_last_3d)
    assert network[1].weight.is_contiguous(memory_format=torch.channels_last)
    assert network[0].native
    image = computing.place(torch.zeros(2, 4, 3, 3, 3), compute)
    assert image.is_contiguous(memory_format=torch.channels_last_3d)
    with computing.autocast(compute):
        assert network[0](image).dtype == torch.bfloat16
    plain = Compute(device="cpu", precision="fp32", channels_last=False, threads=1)
    with computing.autocast(plain):
        assert network[0](image).dtype == torch.float32


@pytest.mark.usefixtures("no_gpu")
@pytest.mark.parametrize(("amx", "precision", "native_too"), [(False, "fp32", True), (True, "bf16", True)])
def test_deterministic_chooses_nothing_by_timing(monkeypatch, settings_of_torch, amx, precision, native_too):
    monkeypatch.setattr(computing, "has_amx", lambda: amx)
    monkeypatch.setattr(native, "kernels", lambda: native.Kernels(object(), ""))
    slow = {"fp32": 1e-9, "fp32 compiled": 1.0, "bf16": 1.0}
    for times in (TIMES, slow, {**slow, "fp32": 3.0, "bf16": 2.0}):
        monkeypatch.setattr(computing, "_race", race(times))
        chosen = computing.choose("cpu", deterministic=True)
        assert (chosen.precision, chosen.native, chosen.deterministic) == (precision, native_too, True)
        assert "deterministic" in chosen.reasons[-1]
        assert records.from_json(Compute, records.to_json(chosen)) == chosen


def test_deterministic_settings_are_made(monkeypatch, settings_of_torch):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    torch.backends.cudnn.benchmark = True
    computing.prepare(Compute(device="cpu", precision="fp32", channels_last=True, threads=1, deterministic=True))
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    assert torch.are_deterministic_algorithms_enabled()
    assert torch.is_deterministic_algorithms_warn_only_enabled()
    assert torch.backends.cudnn.deterministic
    assert not torch.backends.cudnn.benchmark
    assert not torch.utils.deterministic.fill_uninitialized_memory


@pytest.fixture
def settings_of_torch(monkeypatch, one_thread):
    """Give torch its settings back afterwards."""
    before = torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    yield
    torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = before
    torch.use_deterministic_algorithms(False)
    torch.utils.deterministic.fill_uninitialized_memory = True
