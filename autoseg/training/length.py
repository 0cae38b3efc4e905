"""How long trainings may be so that all of them fit a time: arithmetic alone, from what an epoch of each takes.

The largest part of the plan's own length is taken that fits, the same for every training. Where at least twenty epochs
fit, an epoch keeps its steps; else an epoch becomes shorter, so that the learning rate still falls in small stairs and
validation is still looked at.
"""

import dataclasses
import heapq
from collections.abc import Sequence
from dataclasses import dataclass

from autoseg.errors import OptionError
from autoseg.progress import duration
from autoseg.training.time_limit import FoldTime, Length, Pace
from planners.recipe import validation_steps

FEWEST_EPOCHS = 20
"""Epochs below which an epoch gets fewer steps. Assumption: the rate falls in twenty stairs, the smoothed Dice (mean
over about ten epochs) can follow, and an epoch more or less is 5 % of the time."""

HALVINGS = 40  # of the interval that holds the part of the plan's length which fits: enough for any number of steps


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One training that is to be fitted.

    Attributes:
        name: its configuration.
        fold: its fold.
        own: the longest it may become.
        steps_fixed: its configuration has trained folds, which are bound to the number of steps per epoch.
        pace: of its configuration.
        validation_s: seconds of its final validation.
        state: how far it is.
    """

    name: str
    fold: int | str
    own: Length
    steps_fixed: bool
    pace: Pace
    validation_s: float
    state: FoldTime

    @property
    def spent_s(self) -> float:
        """Seconds that it has taken."""
        return self.state.seconds + (self.state.validation_s or 0.0)

    def left_s(self, length: Length) -> float:
        """Seconds that it needs to come to a length and be validated."""
        if self.state.finished >= length.epochs:
            return self.validation_s if self.state.validation_s is None else 0.0
        epochs = max(length.epochs - self.state.epochs, 0.0)
        return epochs * self.pace.epoch(length) + self.validation_s


def fit(candidates: Sequence[Candidate], left_s: float, side_by_side: int, spent_s: float = 0.0) -> dict[str, Length]:
    """Find the longest trainings that fit, each the same part of its own length.

    Args:
        candidates: the trainings, in their order.
        left_s: seconds for what they still need.
        side_by_side: how many run at once.
        spent_s: seconds that are gone already, for the message.

    Returns:
        Length per configuration.

    Raises:
        OptionError: not even the shortest fits; the message says how much time would do.
    """

    def needed(part: float) -> float:
        return all_done_s([item.left_s(length_of(item, part)) for item in candidates], side_by_side)

    if needed(0.0) > left_s:
        gone = f" ({duration(spent_s)} are spent already)" if spent_s >= 1 else ""
        count = f"{len(candidates)} training{'s' * (len(candidates) != 1)}"
        raise OptionError(
            f"a time budget of {duration(spent_s + left_s)} is too short for one step of each of {count} with its "
            f"validation{gone}; the least that would do is {duration(spent_s + needed(0.0))}"
        )
    low, high = (1.0, 1.0) if needed(1.0) <= left_s else (0.0, 1.0)
    for _ in range(HALVINGS if low < high else 0):
        middle = (low + high) / 2
        low, high = (middle, high) if needed(middle) <= left_s else (low, middle)
    return {item.name: length_of(item, low) for item in candidates}


def length_of(candidate: Candidate, part: float) -> Length:
    """Give a part of a training's own length: at least one step, and one epoch where its steps are fixed.

    Args:
        candidate: the training.
        part: from 0 to 1.
    """
    own = candidate.own
    few = min(own.epochs, FEWEST_EPOCHS)
    if candidate.steps_fixed or own.epochs * part >= few:
        return dataclasses.replace(own, epochs=max(int(own.epochs * part), 1))
    steps = max(int(own.steps * part), 1)
    epochs = min(few, steps)
    each = steps // epochs
    follow = min(validation_steps(each).value, own.validation_steps)
    return Length(epochs=epochs, steps_per_epoch=each, validation_steps=follow)


def all_done_s(work: Sequence[float], side_by_side: int) -> float:
    """Give the seconds until the last piece of work is done, where each is begun as soon as a place is free."""
    places = [0.0] * side_by_side
    for seconds in work:
        heapq.heappushpop(places, places[0] + seconds)
    return max(places)
