"""Train one fold of one configuration by the plan's fixed recipe. There is one trainer; variation is data in the plan.

Read ``FoldTrainer.run`` first, then the step between the two ruled comments.

Source: Isensee et al. 2021 (nnU-Net), Methods; constants as in nnU-Net v2.8.1.
"""

import dataclasses
import math
import signal
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Any

import torch
from torch import Tensor

from autoseg import compute as computing
from autoseg.compute import Compute
from autoseg.errors import AutosegError
from autoseg.networks import build_network, save_weights
from autoseg.preprocessing.store import StoredCase
from autoseg.progress import duration, finish_time, meter, say
from autoseg.run_folder import FoldFolder, RunFolder
from autoseg.targets import make_target
from autoseg.training.fold_state import Counters, append_progress, load_state, read_progress, save_state
from autoseg.training.sampling import Batch, BatchSource, prefetch
from autoseg.training.schedule import learning_rate
from planners.plan import Configuration, Plan

SAVE_INTERVAL_S = 60.0  # at most this much work is lost to a kill
EMA_DECAY = 0.9  # smoothing of the validation Dice; nnU-Net v2.8.1
NON_FINITE_LIMIT = 3  # assumption: one bad batch is chance, three in a row are a state to go back from
SKIPPED_LIMIT = 50  # assumption: a training that skips so many steps has a cause that a person must find

HEADER = "epoch      lr     train      val    dice     ema   s/step  wait  done at"


class Interrupted(KeyboardInterrupt):
    """Ctrl-C was pressed or the process was asked to end; the state is saved."""


@dataclass(frozen=True, kw_only=True)
class FoldJob:
    """What one training needs: the plan, the cases, where to write, and how to compute."""

    run: RunFolder
    plan: Plan
    configuration: Configuration
    fold: int | str
    train_cases: Sequence[StoredCase]
    validation_cases: Sequence[StoredCase]
    compute: Compute

    @property
    def folder(self) -> FoldFolder:
        """The files of this fold."""
        return self.run.fold(self.configuration.name, self.fold)

    @property
    def name(self) -> str:
        """For people: ``3d_fullres fold 0``."""
        return f"{self.configuration.name} fold {self.fold}"


class FoldTrainer:
    """The training of one fold, from its saved state or from the start."""

    def __init__(self, job: FoldJob) -> None:
        self.job = job
        self.training = job.configuration.training
        self.compute = job.compute
        self.target = make_target(job.configuration.target, job.plan.labels, self.training)
        network = build_network(
            job.configuration.architecture,
            job.configuration.num_input_channels,
            job.configuration.target.num_outputs,
            seed=self.training.seed,
        )
        self.network = computing.place(network, self.compute)
        self.optimizer = torch.optim.SGD(
            self.network.parameters(),
            lr=self.training.learning_rate,
            momentum=self.training.momentum,
            weight_decay=self.training.weight_decay,
            nesterov=True,
        )
        self.output_weights = [output.loss_weight for output in job.configuration.architecture.outputs]
        self.strides = [output.stride for output in job.configuration.architecture.outputs]
        self.counters = Counters(precision=self.compute.precision, loss_scale=_first_loss_scale(self.compute))
        self.interrupted = False
        self.saved_at = time.monotonic()
        self.non_finite_in_a_row = 0

    def run(self) -> None:
        """Train until the last epoch; save on the way, at the end, and when interrupted.

        Raises:
            Interrupted: the user pressed Ctrl-C, or the process was told to end; the state is saved.
            AutosegError: the loss stays not finite; the message names the cases.
        """
        if self.job.folder.state.exists():
            self.counters = load_state(self.job.folder.state, self.network, self.optimizer)
            self.compute = dataclasses.replace(self.compute, precision=self.counters.precision)
            if self.counters.epoch < self.training.epochs:
                say(f"  {self.job.name}: going on at epoch {self.counters.epoch + 1}, step {self.counters.step + 1}")
        say(f"  {HEADER}")
        with _Signals(self):
            for epoch in range(self.counters.epoch, self.training.epochs):
                self._epoch(epoch)
        self._save()

    # ------------------------------------------------------------------------------------------------------------ step

    def step(self, batch: Batch) -> float | None:
        """Make one training step and give its loss; None where the loss or the gradient was not finite."""
        self.network.train()
        self.optimizer.zero_grad(set_to_none=True)
        maps, weights = self.target.encode(batch.label, self.strides)
        with computing.autocast(self.compute):
            outputs = self.network(computing.place(batch.image, self.compute))
        loss = self.target.loss(outputs, maps, weights, self.output_weights)
        (loss * self.counters.loss_scale).backward()
        gradients = [p.grad for p in self.network.parameters() if p.grad is not None]
        if self.counters.loss_scale != 1.0:
            torch._foreach_div_(gradients, self.counters.loss_scale)
        norm = torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.training.gradient_clip)
        loss_value, norm_value = torch.stack([loss.detach(), norm]).tolist()
        if not (math.isfinite(loss_value) and math.isfinite(norm_value)):
            return None
        self.optimizer.step()
        return loss_value

    # ------------------------------------------------------------------------------------------------------------------

    def _epoch(self, epoch: int) -> None:
        started, first = time.monotonic(), self.counters.step
        waited = self._train_steps(epoch)
        step_s = (time.monotonic() - started) / max(self.training.steps_per_epoch - first, 1)
        validation_loss, dice = self._validate(epoch)
        present = [value for value in dice if value is not None]
        mean_dice = sum(present) / len(present) if present else None
        improved = self._smooth(mean_dice)
        counters = self.counters
        row = {
            "epoch": epoch,
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            "train_loss": counters.loss_sum / max(counters.loss_count, 1),
            "validation_loss": validation_loss,
            "dice": dice,
            "mean_dice": mean_dice,
            "ema_dice": counters.ema_dice,
            "seconds": time.monotonic() - started,
            "step_seconds": step_s,
            "data_wait_fraction": waited / max(time.monotonic() - started, 1e-9),
            "skipped_steps": counters.skipped,
        }
        append_progress(self.job.folder, row)
        say(f"  {self._line(row)}")
        counters.epoch, counters.step = epoch + 1, 0
        counters.loss_sum, counters.loss_count = 0.0, 0
        if improved:
            self._save_weights(self.job.folder.weights_best)
        last = counters.epoch == self.training.epochs
        if last or self.interrupted or time.monotonic() - self.saved_at > SAVE_INTERVAL_S:
            self._save()
        self._stop_if_interrupted()

    def _train_steps(self, epoch: int) -> float:
        """Make the epoch's remaining steps; give the seconds spent waiting for data."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.training, epoch)
        source = self._source(self.job.train_cases, augment=True)
        steps = range(self.counters.step, self.training.steps_per_epoch)
        tick = meter(len(steps), f"{self.job.name}, epoch {epoch + 1}/{self.training.epochs}", interval_s=60.0)
        waited, asked = 0.0, time.monotonic()
        for batch in self._batches(source, epoch, steps):
            waited += time.monotonic() - asked
            loss = self.step(batch)
            self._count(loss, batch, epoch)
            self.counters.step += 1
            tick(1)
            if self.interrupted or time.monotonic() - self.saved_at > SAVE_INTERVAL_S:
                self._save()
            self._stop_if_interrupted()
            asked = time.monotonic()
        tick(0)
        return waited

    def _validate(self, epoch: int) -> tuple[float | None, list[float | None]]:
        """Give the loss and the Dice per foreground class over random validation patches (None where absent)."""
        if not self.job.validation_cases:
            return None, []
        source = self._source(self.job.validation_cases, augment=False)
        steps = range(self.training.validation_steps)
        losses: list[Tensor] = []
        totals: tuple[Tensor, ...] | None = None
        self.network.eval()
        with torch.inference_mode():
            for batch in prefetch(source, epoch, steps, self.compute.device):
                maps, weights = self.target.encode(batch.label, self.strides[:1])
                with computing.autocast(self.compute):
                    outputs = self.network(computing.place(batch.image, self.compute))
                losses.append(self.target.loss(outputs[:1], maps, weights, [1.0]))
                counts = self.target.counts(outputs[0], batch.label)
                totals = counts if totals is None else tuple(a + b for a, b in zip(totals, counts, strict=True))
        assert totals is not None
        return float(torch.stack(losses).mean()), self.target.score(*totals)

    def _source(self, cases: Sequence[StoredCase], *, augment: bool) -> BatchSource:
        return BatchSource(cases, self.job.configuration, seed=self.training.seed, augment=augment)

    def _batches(self, source: BatchSource, epoch: int, steps: range) -> Any:
        if self.training.augmentation.backend == "batchgenerators":
            from autoseg.training.augmentation_batchgenerators import augmented_batches

            return augmented_batches(source, epoch, steps, self.compute.device)
        return prefetch(source, epoch, steps, self.compute.device)

    def _count(self, loss: float | None, batch: Batch, epoch: int) -> None:
        """Add up the loss; where it was not finite, say whose patches it was and go back if it keeps happening."""
        if loss is not None:
            self.counters.loss_sum += loss
            self.counters.loss_count += 1
            self.non_finite_in_a_row = 0
            return
        cases = ", ".join(dict.fromkeys(batch.case_ids))
        self.counters.skipped += 1
        self.non_finite_in_a_row += 1
        self.job.run.log("non-finite-loss", fold=self.job.name, epoch=epoch, step=self.counters.step, cases=cases)
        if self.compute.precision == "fp16":  # expected now and then: the loss scale is too high
            self.counters.loss_scale = max(self.counters.loss_scale / 2, 1.0)
        else:
            step = self.counters.step + 1
            say(f"  {self.job.name}: loss not finite in epoch {epoch + 1}; step {step} skipped ({cases})")
        if self.counters.skipped > SKIPPED_LIMIT:
            raise AutosegError(
                f"{self.job.name}: {self.counters.skipped} steps had a loss that is not finite, the last with {cases}. "
                "Look at these cases, or lower the learning rate (--set '*.training.learning_rate=0.001')"
            )
        if self.non_finite_in_a_row >= NON_FINITE_LIMIT:
            self._recover()

    def _recover(self) -> None:
        """Go back to the last saved weights and go on in float32."""
        say(f"  {self.job.name}: not finite {NON_FINITE_LIMIT} times in a row; last saved weights, float32 from here")
        self.job.run.log("recovered", fold=self.job.name, step=self.counters.step, precision="fp32")
        if self.job.folder.state.exists():
            load_state(self.job.folder.state, self.network, self.optimizer)
        self.compute = dataclasses.replace(self.compute, precision="fp32")
        self.counters.precision, self.counters.loss_scale = "fp32", 1.0
        self.non_finite_in_a_row = 0

    def _smooth(self, mean_dice: float | None) -> bool:
        """Update the smoothed Dice; tell whether it is the best so far."""
        counters = self.counters
        if mean_dice is None:
            return False
        before = counters.ema_dice
        counters.ema_dice = mean_dice if before is None else EMA_DECAY * before + (1 - EMA_DECAY) * mean_dice
        if counters.best_ema is not None and counters.ema_dice <= counters.best_ema:
            return False
        counters.best_ema = counters.ema_dice
        return True

    def _save(self) -> None:
        save_state(self.job.folder.state, self.network, self.optimizer, self.counters)
        self._save_weights(self.job.folder.weights_last)
        self.saved_at = time.monotonic()

    def _save_weights(self, path: Any) -> None:
        step = self.counters.epoch * self.training.steps_per_epoch + self.counters.step
        save_weights(path, self.network, {"step": str(step), "configuration": self.job.configuration.name})

    def _stop_if_interrupted(self) -> None:
        if self.interrupted:
            raise Interrupted

    def _line(self, row: dict[str, Any]) -> str:
        left = (self.training.epochs - row["epoch"] - 1) * row["seconds"]
        epoch = f"{row['epoch'] + 1}/{self.training.epochs}"
        return (
            f"{epoch:>9} {row['learning_rate']:7.5f} {row['train_loss']:8.4f} {_number(row['validation_loss'], 8)} "
            f"{_number(row['mean_dice'], 7)} {_number(row['ema_dice'], 7)} {row['step_seconds']:8.3f} "
            f"{row['data_wait_fraction']:5.0%}  {finish_time(left)}"
        )


def train_fold(job: FoldJob) -> None:
    """Train one fold to its last epoch, from where it stopped."""
    trainer = FoldTrainer(job)
    started = time.monotonic()
    trainer.run()
    rows = read_progress(job.folder)
    best = max((row["ema_dice"] for row in rows if row["ema_dice"] is not None), default=None)
    shown = "none (no foreground in the validation patches)" if best is None else f"{best:.3f}"
    say(f"  {job.name}: trained in {duration(time.monotonic() - started)}; best smoothed validation Dice {shown}")


class _Signals:
    """While training, Ctrl-C and a polite kill set a flag: the step is finished and saved. The second stops at once."""

    def __init__(self, trainer: FoldTrainer) -> None:
        self.trainer = trainer
        self.before: dict[int, Any] = {}

    def __enter__(self) -> None:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self.before[number] = signal.signal(number, self._note)

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.trainer.interrupted:
            raise KeyboardInterrupt
        self.trainer.interrupted = True
        say("  finishing this step and saving (once more to stop at once) …")


def _first_loss_scale(compute: Compute) -> float:
    return 2.0**14 if compute.precision == "fp16" else 1.0  # assumption: high, and halved whenever it overflows


def _number(value: float | None, width: int) -> str:
    return f"{value:{width}.4f}" if value is not None else "–".rjust(width)
