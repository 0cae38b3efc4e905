"""Records of how hard each case is for a trained network: often the first place where a wrong label shows."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class CaseLoss:
    """The loss of one case, on patches of it that are not augmented.

    Attributes:
        case: its id.
        loss: the training loss, mean over the patches.
        part: whether the network was trained on the case.
    """

    case: str
    loss: float
    part: Literal["train", "validation"]


@dataclass(frozen=True, kw_only=True)
class CaseLosses:
    """The losses of one fold (``case_losses.json``).

    Attributes:
        cases: the highest first.
        patches_per_case: how many patches each number comes from.
        num_left_out: cases that there was no time for, or whose loss was not finite.
    """

    cases: tuple[CaseLoss, ...]
    patches_per_case: int
    num_left_out: int = 0
