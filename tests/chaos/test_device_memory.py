"""A device whose memory runs out, operators that fail: one line, a step down or a fallback, and on it goes."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from chaos_driver import finish, run_command
from chaos_limits import copy_run, is_one_message
from chaos_table import Row

import autoseg
from autoseg.cli import main
from autoseg.networks.unet import UNet
from autoseg.run_folder import RunFolder
from autoseg.training.fold_record import FoldRecord

ROW = Row(
    key="5",
    fault="a device out of memory, operators that fail late",
    injected="the network raises torch.OutOfMemoryError, or a CUDA library's own error, at a chosen step or from a "
    "size of batch on; compiled operators that cannot be loaded; loss and batch that are not finite",
    promise="one line; training steps down and goes on with its weights, prediction takes fewer windows at a time, to "
    "the same bits; torch's own operators step in; single steps that are not finite are left out and named",
)
FULL = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
OTHER = RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED")


class FullDevice:
    """Makes the network raise where a batch has more samples than fit, or once at a chosen call."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, fault: Exception, *, most: int = 0, at: int = 0) -> None:
        self.calls, self.raised = 0, 0
        forward = UNet.forward

        def limited(network: UNet, image: Any, *more: Any) -> Any:
            self.calls += 1
            if (most and len(image) > most) or self.calls == at:
                self.raised += 1
                raise fault
            return forward(network, image, *more)

        monkeypatch.setattr(UNet, "forward", limited)


@pytest.mark.parametrize("fault", [FULL, OTHER], ids=["torch", "cudnn"])
def test_prediction_takes_fewer_windows_at_a_time(
    fault: Exception,
    reference: Path,
    tiny_dataset: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    record: Callable[..., None],
) -> None:
    device = FullDevice(monkeypatch, fault, most=2)
    code = main(["predict", str(reference), str(tiny_dataset / "imagesTs"), str(tmp_path), "--device", "cpu"])
    said = capsys.readouterr().err
    print(said)
    wanted = sorted((reference / "predictions").glob("*.nii.gz"))
    same = [(tmp_path / path.name).read_bytes() == path.read_bytes() for path in wanted]
    good = code == 0 and device.raised > 0 and "2 windows at a time from here on" in said
    record(ROW, trials=1, survived=int(good), lost=same.count(False), note="prediction: same bits")


def test_a_device_too_small_for_one_window_is_named(
    reference: Path,
    tiny_dataset: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    record: Callable[..., None],
) -> None:
    def none_fits(network: UNet, image: Any, *more: Any) -> Any:
        raise FULL

    monkeypatch.setattr(UNet, "forward", none_fits)
    code = main(["predict", str(reference), str(tiny_dataset / "imagesTs"), str(tmp_path), "--device", "cpu"])
    said = capsys.readouterr().err
    print(said)
    good = code == 2 and "not enough free memory for one window" in said and is_one_message(said)
    record(ROW, trials=1, survived=int(good), note="a device too small for one window: named")


@pytest.mark.parametrize(("fault", "at"), [(FULL, 3), (OTHER, 2)], ids=["torch", "cudnn"])
def test_training_steps_down_and_goes_on(
    fault: Exception,
    at: int,
    reference: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    record: Callable[..., None],
) -> None:
    run = copy_run(reference, tmp_path / "run")
    device = FullDevice(monkeypatch, fault, at=at)
    code = main(["train", str(run), "3d_fullres", "1"])
    said = capsys.readouterr().err
    print(said)
    fold = RunFolder(run).fold("3d_fullres", 1)
    done = fold.record.exists() and RunFolder(run).read(FoldRecord, fold.record).finished and fold.scores.exists()
    lines = [line for line in said.splitlines() if "the device ran out of memory" in line]
    good = code == 0 and device.raised == 1 and done and len(lines) == 1
    record(ROW, trials=1, survived=int(good), note="training: one step down")


def test_single_steps_that_are_not_finite_are_left_out(
    reference: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    record: Callable[..., None],
) -> None:
    from autoseg.training.trainer import FoldTrainer

    run, steps = copy_run(reference, tmp_path / "run"), []
    real = FoldTrainer.step

    def step(trainer: FoldTrainer, batch: Any) -> Any:
        steps.append(batch.case_ids)
        if len(steps) == 2:
            batch.image.fill_(float("nan"))
        return real(trainer, batch)

    monkeypatch.setattr(FoldTrainer, "step", step)
    code = main(["train", str(run), "3d_fullres", "1"])
    said = capsys.readouterr().err
    print(said)
    named = f"loss not finite in epoch 1; step 2 skipped ({', '.join(dict.fromkeys(steps[1]))})"
    fold = RunFolder(run).fold("3d_fullres", 1)
    finite = all(torch.isfinite(value).all() for value in weights_of(fold.weights_last))
    record(ROW, trials=1, survived=int(code == 0 and named in said and finite), note="a batch of NaN: left out, named")


def weights_of(path: Path) -> list[torch.Tensor]:
    from autoseg.networks import load_weights

    return list(load_weights(path)[0].values())


def test_operators_that_cannot_be_loaded(
    reference: Path, tiny_dataset: Path, tmp_path: Path, record: Callable[..., None]
) -> None:
    """A file of compiled operators that is no library (a full disk, another machine's)."""
    cache = tmp_path / "cache"
    break_it = (
        f"import os; os.environ['AUTOSEG_CACHE'] = {str(cache)!r}\n"
        "from autoseg import native\n"
        "real = native.build\n"
        "def build(*given):\n    path = real(*given); path.write_bytes(b'no library'); return path\n"
        "native.build = build"
    )
    arguments = ["predict", str(reference), str(tiny_dataset / "imagesTs"), str(tmp_path / "out"), "--device", "cpu"]
    code, said = finish(arguments, tmp_path / "said", before=break_it)
    print(said)
    native = '"native": true' in (reference / "run.json").read_text()
    good = code == 0 and (not native or said.count("compiled operators are not there") == 1)
    record(ROW, trials=1, survived=int(good), note="compiled operators that cannot be loaded: torch's own")


def test_nothing_is_compiled_late() -> None:
    """``torch.compile`` may raise at any shape; where somebody brings it in, this row needs a test of its fallback."""
    sources = Path(autoseg.__file__).parent.rglob("*.py")
    assert not [path for path in sources if re.search(r"torch\.(compile|jit)\(", path.read_text(encoding="utf-8"))]


@pytest.mark.slow
def test_a_whole_run_on_a_device_that_is_too_small(
    reference: Path, tiny_dataset: Path, tmp_path: Path, record: Callable[..., None]
) -> None:
    small = (
        "import torch\n"
        "from autoseg.networks.unet import UNet\n"
        "forward = UNet.forward\n"
        "def limited(network, image, *more):\n"
        "    if image.numel() > 2000:\n"
        "        raise torch.OutOfMemoryError('CUDA out of memory')\n"
        "    return forward(network, image, *more)\n"
        "UNet.forward = limited"
    )
    code, said = finish(run_command(tiny_dataset, tmp_path / "run"), tmp_path / "said", before=small)
    print(said[-3000:])
    good = code in (0, 2) and is_one_message(said) and "ran out of memory" in said
    record(ROW, trials=1, survived=int(good), note="a whole run on a device for less than the smallest batch")
