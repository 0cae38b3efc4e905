"""Several runs on one folder: what each is going to train, who may work beside whom, and who chooses in the end.

A cluster trains the folds of one run as separate jobs that start together. Each ``autoseg run`` writes down what it is
going to train (``RUN/.claims/``, one locked file per process). Claims that share no fold of a configuration work side
by side: what all need is made by one while the others wait, and the last to finish chooses, predicts and reports for
all. A claim that shares something with one that is at work is refused, or waits.
"""

import contextlib
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeAlias

from autoseg.locks import POLL_S, Holder, InUseError, hold, holder_of, written_in
from autoseg.progress import say
from planners import records

FOLDER = ".claims"
TURN = ".lock"  # held by who works on what all share; the name is that of older versions, which hold it throughout

Part: TypeAlias = "tuple[tuple[str, ...], tuple[int | str, ...]]"
"""Names of configurations and of folds; none of them: all."""


class Claims:
    """What this process and others are going to train in one run folder."""

    def __init__(self, root: Path, part: Part) -> None:
        self.folder = root / FOLDER
        self.part = part
        self.file = self.folder / f"{records.digest([list(part[0]), list(part[1])])}.json"
        self._own, self._is_in = contextlib.ExitStack(), False
        self._turn = contextlib.ExitStack()

    def enter(self, *, wait: bool) -> None:
        """Write this claim down.

        Args:
            wait: wait for those who work on something of it.

        Raises:
            InUseError: somebody works on something of it.
        """
        told = False
        while not self._try():
            holder = next((holder for holder in self.others() if _meet(self.part, part_of(holder))), None)
            if holder is not None and not wait:
                raise InUseError(
                    f"{self.folder.parent} is in use by {holder}. Wait until it has finished (--wait does), stop it, "
                    "or name other folds (--folds), which are trained beside it"
                )
            if holder is not None and not told:
                say(f"  waiting for {holder}, which works on {self.folder.parent}")
                told = True
            time.sleep(POLL_S)

    def others(self) -> list[Holder]:
        """List who is at work in this folder beside this process."""
        return [holder for _, holder in self._files() if holder is not None]

    def ended(self) -> list[Part]:
        """List the parts of those who left the rest to others, or were stopped, since somebody last did the rest."""
        found = (written_in(path) for path, holder in self._files() if holder is None)
        return [part_of(holder) for holder in found if holder is not None]

    def is_last(self) -> bool:
        """Tell whether nobody else is at work; where somebody is, this claim ends, and the last one does the rest."""
        with self._mutex():
            if not self.others():
                return True
            self._release()
        return False

    def take_turn(self) -> None:
        """Be the only one who works on what all share, from here on; once it is said whom this process waits for."""
        self._turn.enter_context(hold(self.folder.parent / TURN, wait=True))

    @contextlib.contextmanager
    def side_by_side(self) -> Iterator[None]:
        """Let others have their turn while the body works on what is this process's alone."""
        self._turn.close()
        yield
        self.take_turn()

    def settle(self) -> None:
        """Note that the rest was done, for this process and for all who ended."""
        with self._mutex():
            for path, holder in self._files():
                if holder is None:
                    path.unlink(missing_ok=True)

    def leave(self, *, forget: bool) -> None:
        """End this claim, if it has not ended; ``forget``: the last one need not look for what it trained."""
        self._turn.close()
        if self._is_in:
            with self._mutex():
                self._release()
                if forget:
                    self.file.unlink(missing_ok=True)

    def _try(self) -> bool:
        with self._mutex():
            if any(_meet(self.part, part_of(holder)) for holder in self.others()):
                return False
            about = {"configurations": list(self.part[0]), "folds": list(self.part[1])}
            self._own.enter_context(hold(self.file, about=about))
            self._is_in = True
        return True

    def _files(self) -> list[tuple[Path, Holder | None]]:
        """List the files of all claims but this one, once it is in, with who holds them now."""
        paths = (path for path in sorted(self.folder.glob("*.json")) if path != self.file or not self._is_in)
        return [(path, holder_of(path)) for path in paths]

    def _release(self) -> None:
        self._is_in = False
        self._own.close()

    def _mutex(self) -> contextlib.AbstractContextManager[bool]:
        return hold(self.folder / ".lock", wait=True)


@contextlib.contextmanager
def claimed(root: Path, part: Part, *, wait: bool) -> Iterator[Claims]:
    """Claim a part of a run folder's trainings while the body runs, which begins with this process's turn.

    Raises:
        InUseError: somebody works on something of it, and this process shall not wait.
    """
    claims = Claims(root, part)
    claims.enter(wait=wait)
    try:
        claims.take_turn()
        yield claims
    except KeyboardInterrupt:  # as after a kill: it will be started again
        claims.leave(forget=False)
        raise
    finally:
        claims.leave(forget=True)


def joined(parts: Sequence[Part], everything: Part) -> Part:
    """Join parts into one: all configurations and all folds that are in any, in the order of ``everything``."""
    names = tuple(name for name in everything[0] if any(not part[0] or name in part[0] for part in parts))
    return names, tuple(fold for fold in everything[1] if any(not part[1] or fold in part[1] for part in parts))


def part_of(holder: Holder) -> Part:
    """Give what a holder of a claim trains."""
    return tuple(holder.about.get("configurations", ())), tuple(holder.about.get("folds", ()))


def _meet(one: Part, other: Part) -> bool:
    """Tell whether two parts have a fold of a configuration in common."""
    return all(not a or not b or set(a) & set(b) for a, b in zip(one, other, strict=True))
