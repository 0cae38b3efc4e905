"""Train one fold of one configuration by the plan's fixed recipe. There is one trainer; variation is data in the plan.

Read ``FoldTrainer.run`` first, then the step between the two ruled comments.

Source: Isensee et al. 2021 (nnU-Net), Methods; constants as in nnU-Net v2.8.1.
"""

import contextlib
import dataclasses
import functools
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from autoseg import compute as computing
from autoseg.compute import Compute
from autoseg.errors import AutosegError
from autoseg.evaluation.overlap import mean_of
from autoseg.networks import build_network
from autoseg.preprocessing.store import StoredCase
from autoseg.progress import duration, meter, say
from autoseg.run_folder import FoldFolder, RunFolder
from autoseg.targets import make_target
from autoseg.training.collapse import tell_collapse
from autoseg.training.epoch_line import HEADER, epoch_line
from autoseg.training.first_loss import first_loss
from autoseg.training.fold_state import (
    Counters,
    append_progress,
    drop_progress,
    first_loss_scale,
    load_state,
    read_progress,
    spent_s,
)
from autoseg.training.interruption import Interrupted, Interruption
from autoseg.training.loggers import open_loggers
from autoseg.training.momentum import carry_over, fit_momentum, momentum_text
from autoseg.training.outlook import say_outlook
from autoseg.training.sampling import Batch, BatchSource, prefetch
from autoseg.training.saving import Saver
from autoseg.training.schedule import end_at, final_anneal, last_epoch, learning_rate
from autoseg.training.start import freeze, put_initial_weights
from autoseg.training.time_limit import TimeLimit
from planners.plan import Configuration, Plan

SAVE_INTERVAL_S = 60.0  # at most this much work is lost to a kill
EMA_DECAY = 0.9  # smoothing of the validation Dice; nnU-Net v2.8.1
NON_FINITE_LIMIT = 3  # assumption: one bad batch is chance, three in a row are a state to go back from
SKIPPED_LIMIT = 50  # assumption: a training that skips so many steps has a cause that a person must find

__all__ = ["FoldJob", "FoldTrainer", "Interrupted", "train_fold"]


@dataclass(frozen=True, kw_only=True)
class FoldJob:
    """What one training needs: plan, cases, where to write, how to compute, for how long at most (None: no limit)."""

    run: RunFolder
    plan: Plan
    configuration: Configuration
    fold: int | str
    train_cases: Sequence[StoredCase]
    validation_cases: Sequence[StoredCase]
    compute: Compute
    limit: TimeLimit | None = None

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

    def __init__(self, job: FoldJob, clock: Callable[[], float] = time.monotonic) -> None:
        """Build network and optimizer.

        Args:
            job: what to train.
            clock: gives seconds that only go forward.

        Raises:
            PlanError: the plan freezes a part that does not exist, or everything.
        """
        self.clock = clock
        self.mark = self.saved_at = clock()
        self.job = job
        self.saver = Saver(job.folder, clock)
        self.training = fit_momentum(job.configuration.training)
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
            freeze(self.network, self.training.frozen, f"{job.configuration.name}.training.frozen"),
            lr=self.training.learning_rate,
            momentum=self.training.momentum,
            weight_decay=self.training.weight_decay,
            nesterov=True,
        )
        self.output_weights = [output.loss_weight for output in job.configuration.architecture.outputs]
        self.strides = [output.stride for output in job.configuration.architecture.outputs]
        self.counters = Counters(
            precision=self.compute.precision,
            loss_scale=first_loss_scale(self.compute.precision),
            momentum=self.training.momentum,
        )
        self.interruption = Interruption()
        self.non_finite_in_a_row = 0
        self.predicted_voxels: list[int] = []  # per foreground class or region, in the last validation

    def run(self) -> None:
        """Train until the last epoch; save on the way, at the end, and when interrupted.

        Raises:
            Interrupted: the user pressed Ctrl-C, or the process was told to end; the state is saved.
            AutosegError: the loss stays not finite; the message names the cases.
        """
        computing.keep_memory(self.compute, False)  # until the first step is made
        self._begin()
        say(f"  {HEADER}")
        first = self.counters.epoch
        with contextlib.closing(self.saver):
            with self.interruption, open_loggers(self.job.run, self.job.folder, self.job.configuration) as log:
                while self.counters.epoch < last_epoch(self.training, self.counters.bend):
                    log(self._epoch())
                    if self.counters.epoch == first + 1:
                        say_outlook(self.job.run)
                    self.interruption.raise_if_asked()
            self._save()
        computing.keep_memory(self.compute)  # also where no step was left to make

    def _begin(self) -> None:
        """Take up the saved state; without one begin with the plan's initial weights."""
        if not self.job.folder.state.exists():
            put_initial_weights(self.network, self.job.run, self.job.configuration)
            self._say_momentum()
            self.check_first_loss()
            return
        counters = self.counters = load_state(self.job.folder.state, self.network, self.optimizer)
        if carry_over(counters, self.optimizer, self.job.configuration.training, self.training):
            self._say_momentum()
        self.compute = dataclasses.replace(self.compute, precision=counters.precision)
        rows = read_progress(self.job.folder)
        kept = [row for row in rows if row["epoch"] < counters.epoch]
        if len(kept) < len(rows):  # a kill came before the next save: this work is done again, its time is spent
            counters.lost_s += max(spent_s(rows, counters) - spent_s(kept, counters), 0.0)
            drop_progress(self.job.folder, counters.epoch)  # first: a kill in between then counts nothing twice
            self._save()
        if counters.bend is not None and counters.bend.planned != self.training.epochs:
            counters.bend, counters.stalled = None, 0
        if counters.epoch < last_epoch(self.training, counters.bend):
            say(f"  {self.job.name}: going on at epoch {counters.epoch + 1}, step {counters.step + 1}")

    def _say_momentum(self) -> None:
        text = momentum_text(self.job.configuration.training, self.training)
        if text:
            say(f"  {text}")

    def check_first_loss(self) -> None:
        """Compare the loss before the first step with that of a network that knows nothing, and tell if it is far."""
        batch = self.source(self.job.train_cases, augment=True).batch(0, 0, self.compute.device)
        found = first_loss(self.network, batch, self.target, self.strides, self.output_weights, self.compute)
        say(f"  {found.text()}")
        because = f"{self.job.name}: {found.text()}" if found.is_far else ""
        self.job.run.log("first-loss", fold=self.job.name, because=because, **dataclasses.asdict(found))

    # ------------------------------------------------------------------------------------------------------------ step

    def step(self, batch: Batch) -> float | None:
        """Make one training step and give its loss; None where the loss or the gradient was not finite."""
        self.network.train()
        self.optimizer.zero_grad(set_to_none=True)
        maps, weights = batch.encoded or self.target.encode(batch.label, self.strides)
        with computing.autocast(self.compute):
            outputs = self.network(computing.place(batch.image, self.compute))
        loss = self.target.loss(outputs, maps, weights, self.output_weights, batch.annotated)
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

    def _epoch(self) -> dict[str, Any]:
        """Make one epoch; give its row of ``progress.jsonl``."""
        counters, epoch, first = self.counters, self.counters.epoch, self.counters.step
        started = self.clock()
        waited = self._train_steps(epoch)
        trained = self.clock()
        validation_loss, dice = self.validate(epoch)
        validated = self.clock()
        mean_dice = mean_of(dice)
        improved = self._smooth(mean_dice)
        self._count_time()
        row = {
            "epoch": epoch,
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            "annealing": counters.bend is not None and counters.bend.annealing,
            "train_loss": counters.loss_sum / max(counters.loss_count, 1),
            "validation_loss": validation_loss,
            "dice": dice,
            "mean_dice": mean_dice,
            "predicted_voxels": self.predicted_voxels,
            "ema_dice": counters.ema_dice,
            "seconds": counters.seconds,
            "step_seconds": (trained - started) / max(self.training.steps_per_epoch - first, 1),
            "validation_seconds": validated - trained,
            "data_wait_fraction": waited / max(trained - started, 1e-9),
            "saving_seconds": self.saver.newly_waited_s(),
            "skipped_steps": counters.skipped,
        }
        append_progress(self.job.folder, row)
        counters.epoch, counters.step = epoch + 1, 0
        counters.loss_sum, counters.loss_count, counters.seconds = 0.0, 0, 0.0
        self._bend()
        end = last_epoch(self.training, counters.bend)
        say(f"  {epoch_line(row, end)}")
        tell_collapse(self.job.run, self.job.name, read_progress(self.job.folder), self.training.epochs, self.target)
        if improved:
            self.saver.save_best(self.network, self._meta())
        if counters.epoch >= end or self.interruption.asked or self.clock() - self.saved_at > SAVE_INTERVAL_S:
            self._save()
        return row

    def _bend(self) -> None:
        """Begin the final anneal where validation stalls; let the schedule end where the time does."""
        training, counters = self.training, self.counters
        epoch, end = counters.epoch, last_epoch(training, counters.bend)
        annealing = counters.bend is not None and counters.bend.annealing
        stalls = training.patience is not None and counters.stalled >= training.patience
        if stalls and not annealing and training.warm_up <= epoch < end:
            counters.bend = final_anneal(training, counters.bend, epoch)
            end = counters.bend.end
            say(f"  no better validation for {counters.stalled} epochs: final anneal, epochs {epoch + 1} to {end}")
            self.job.run.log("final-anneal", fold=self.job.name, epoch=epoch, end=end, stalled=counters.stalled)
        if self.job.limit is not None:
            fits = self.job.limit.end(read_progress(self.job.folder), counters)
            counters.bend = end_at(training, counters.bend, epoch, fits)

    def _train_steps(self, epoch: int) -> float:
        """Make the epoch's remaining steps; give the seconds spent waiting for data."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.training, epoch, self.counters.bend)
        source = self.source(self.job.train_cases, augment=True)
        steps = range(self.counters.step, self.training.steps_per_epoch)
        what = f"{self.job.name}, epoch {epoch + 1}/{last_epoch(self.training, self.counters.bend)}"
        tick = meter(len(steps), what, interval_s=60.0)
        waited, asked = 0.0, self.clock()
        for batch in self.batches(source, epoch, steps):
            waited += self.clock() - asked
            loss = self.step(batch)
            computing.keep_memory(self.compute)
            self._count(loss, batch, epoch)
            self.counters.step += 1
            tick(1)
            if self.interruption.asked or self.clock() - self.saved_at > SAVE_INTERVAL_S:
                self._save()
            self.interruption.raise_if_asked()
            asked = self.clock()
        tick(0)
        return waited

    def validate(self, epoch: int) -> tuple[float | None, list[float | None]]:
        """Give the loss and the Dice per foreground class over random validation patches (None where absent)."""
        if not self.job.validation_cases:
            return None, []
        source = self.source(self.job.validation_cases, augment=False, num_outputs=1)
        steps = range(self.training.validation_steps)
        losses: list[Tensor] = []
        totals: tuple[Tensor, ...] | None = None
        self.network.eval()
        with torch.inference_mode():
            for batch in prefetch(source, epoch, steps, self.compute.device):
                maps, weights = batch.encoded or self.target.encode(batch.label, self.strides[:1])
                with computing.autocast(self.compute):
                    outputs = self.network(computing.place(batch.image, self.compute))
                losses.append(self.target.loss(outputs[:1], maps, weights, [1.0], batch.annotated))
                counts = self.target.counts_of_encoded(outputs[0], batch.label, maps[0], weights[0], batch.annotated)
                totals = counts if totals is None else tuple(a + b for a, b in zip(totals, counts, strict=True))
        assert totals is not None
        self.predicted_voxels = [int(value) for value in (totals[0] + totals[1]).tolist()]
        return float(torch.stack(losses).mean()), self.target.score(*totals)

    def source(self, cases: Sequence[StoredCase], *, augment: bool, num_outputs: int | None = None) -> BatchSource:
        """Draw from some cases; labels of objects are encoded on the way, for the first outputs (None: for all)."""
        encode = functools.partial(self.target.encode, strides=self.strides[:num_outputs])
        return BatchSource(
            cases,
            self.job.configuration,
            seed=self.training.seed,
            augment=augment,
            num_classes=self.job.plan.labels.num_classes,
            encode=encode if self.target.finds_objects else None,
        )

    def batches(self, source: BatchSource, epoch: int, steps: range) -> Any:
        """Give the batches of some steps in order, the next ones prepared in the background."""
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
        self.saver.close()
        if self.job.folder.state.exists():
            saved = load_state(self.job.folder.state, self.network, self.optimizer)
            carry_over(saved, self.optimizer, self.job.configuration.training, self.training)
        self.compute = dataclasses.replace(self.compute, precision="fp32")
        self.counters.precision, self.counters.loss_scale = "fp32", 1.0
        self.non_finite_in_a_row = 0

    def _smooth(self, mean_dice: float | None) -> bool:
        """Update the smoothed Dice; tell whether it is the best so far."""
        counters = self.counters
        if mean_dice is None:
            return False
        before = counters.ema_dice
        counters.stalled += 1
        counters.ema_dice = mean_dice if before is None else EMA_DECAY * before + (1 - EMA_DECAY) * mean_dice
        if counters.best_ema is not None and counters.ema_dice <= counters.best_ema:
            return False
        counters.best_ema, counters.stalled = counters.ema_dice, 0
        return True

    def _count_time(self) -> None:
        now = self.clock()
        self.counters.seconds += now - self.mark
        self.mark = now

    def _save(self) -> None:
        self._count_time()
        self.saved_at = self.clock()
        self.saver.save(self.network, self.optimizer, self.counters, self._meta())

    def _meta(self) -> dict[str, str]:
        step = self.counters.epoch * self.training.steps_per_epoch + self.counters.step
        return {"step": str(step), "configuration": self.job.configuration.name}


def train_fold(job: FoldJob) -> None:
    """Train one fold to its last epoch, from where it stopped."""
    trainer = FoldTrainer(job)
    started = time.monotonic()
    trainer.run()
    rows = read_progress(job.folder)
    best = max((row["ema_dice"] for row in rows if row["ema_dice"] is not None), default=None)
    shown = "none (no foreground in the validation patches)" if best is None else f"{best:.3f}"
    say(f"  {job.name}: trained in {duration(time.monotonic() - started)}; best smoothed validation Dice {shown}")
