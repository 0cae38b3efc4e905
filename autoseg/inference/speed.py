"""How much work goes into a prediction: mirrored forms, overlap of windows, folds.

What a preset costs in Dice stands in ``docs/speed.md``, measured by ``benchmarks/speed_presets.py``.
"""

from dataclasses import dataclass

from autoseg import extensions
from autoseg.inference.windows import STEP


@dataclass(frozen=True, kw_only=True)
class Speed:
    """One preset.

    Attributes:
        name: what the user says.
        mirror: see every window in all combinations of the mirror axes of the training: up to eight passes in 3D.
        step: distance of two windows as a fraction of the window's edge; see ``windows.window_positions``.
        max_folds: networks of each configuration that take part, the first ones; None: all. The stages that only feed a
            cascade are cut alike.
        because: why it is as it is.
    """

    name: str
    mirror: bool
    step: float
    max_folds: int | None
    because: str

    @property
    def text(self) -> str:
        """Say it in words, for people and for the record beside predictions."""
        mirrored = "mirrored" if self.mirror else "not mirrored"
        folds = "all folds" if self.max_folds is None else f"at most {self.max_folds} fold{'s' * (self.max_folds > 1)}"
        return f"{self.name}: {mirrored}, windows every {self.step:g} of their edge, {folds}"


SPEEDS = {
    "best": Speed(
        name="best",
        mirror=True,
        step=STEP,
        max_folds=None,
        because="as nnU-Net v2.8.1 predicts, and as the out-of-fold predictions were made that the choice rests on",
    ),
    "balanced": Speed(
        name="balanced",
        mirror=False,
        step=STEP,
        max_folds=None,
        because="mirroring is the dearest part, up to eight passes for one; without it 6 to 7 times less work was "
        "measured, for 0.003 and 0.019 of Dice",
    ),
    "fast": Speed(
        name="fast",
        mirror=False,
        step=STEP,
        max_folds=1,
        because="one network of each configuration: of three folds 19 times less work for 0.008 of Dice. Windows "
        "further apart were measured too, and are the worst bargain: 1.9 times less work for 0.027",
    ),
}
"""All presets, the slowest first."""

BEST = SPEEDS["best"]


def find_speed(name: str) -> Speed:
    """Find a preset by name.

    Raises:
        OptionError: there is none of that name; the message lists them.
    """
    return extensions.find(SPEEDS, "speed", name)
