"""Saving a training on the way: no more than a minute of work is ever lost, and steps hardly wait for the disk.

A save is made between two steps. Where the network is large and the disk slow, that adds up to more than a hundredth of
the time; then tensors are copied, and a thread writes the copies while training goes on. A file is whole or not there
in either case, and never older than the one that it replaces.
"""

import threading
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from autoseg.networks.checkpoint import write_weights
from autoseg.run_folder import FoldFolder
from autoseg.training.fold_state import NETWORK, Counters, collect_state, counters_text, write_state

MOST_WAITING = 0.01
"""Part of the time that training may wait for its files; beyond it a thread writes them."""

BRIEF_S = 0.25
"""Assumption: a file that is written faster is not worth a copy of its tensors."""


class Saver:
    """Writes the files of one training.

    Attributes:
        waited_s: how long training has waited for its files.
        longest_s: how long the slowest of them took to write, whoever wrote it.
    """

    def __init__(self, folder: FoldFolder, clock: Callable[[], float]) -> None:
        """Begin; nothing is written yet.

        Args:
            folder: of the fold.
            clock: gives seconds that only go forward.
        """
        self.folder, self.clock = folder, clock
        self.started = clock()
        self.waited_s = self.longest_s = 0.0
        self._told_s = 0.0
        self._writer: threading.Thread | None = None
        self._fault: BaseException | None = None

    def save(
        self, network: nn.Module, optimizer: torch.optim.Optimizer, counters: Counters, meta: Mapping[str, str]
    ) -> None:
        """Write the state, then the weights of the same step (``weights_last``).

        Raises:
            AutosegError: it cannot be written, or what was written before could not.
        """
        text, tensors = counters_text(counters), collect_state(network, optimizer)

        def write(copies: Mapping[str, Tensor]) -> None:
            write_state(self.folder.state, copies, text)
            weights = {name: copies[f"{NETWORK}{name}"] for name in network.state_dict()}
            write_weights(self.folder.weights_last, weights, meta)

        self._do(write, tensors)

    def save_best(self, network: nn.Module, meta: Mapping[str, str]) -> None:
        """Write the weights as the best so far (``weights_best``). Errors as of :meth:`save`."""
        self._do(lambda copies: write_weights(self.folder.weights_best, copies, meta), dict(network.state_dict()))

    def newly_waited_s(self) -> float:
        """Give the seconds that training has waited for its files since this was last asked."""
        told, self._told_s = self._told_s, self.waited_s
        return self.waited_s - told

    def close(self) -> None:
        """Wait until everything is on the disk. More may be saved afterwards.

        Raises:
            AutosegError: it could not be written.
        """
        began = self.clock()
        if self._writer is not None:
            self._writer.join()
            self._writer = None
        self.waited_s += self.clock() - began
        if self._fault is not None:
            fault, self._fault = self._fault, None
            raise fault

    def _do(self, write: Callable[[Mapping[str, Tensor]], None], tensors: Mapping[str, Tensor]) -> None:
        self.close()  # one at a time, in order
        began = self.clock()
        long = self.longest_s > BRIEF_S and self.waited_s > MOST_WAITING * (began - self.started)
        copies = {name: _copy(value, always=long) for name, value in tensors.items()}
        if long:
            self._writer = threading.Thread(target=self._guarded, args=(write, copies), name="saving")
            self._writer.start()
        else:
            self._timed(write, copies)
        self.waited_s += self.clock() - began

    def _guarded(self, write: Callable[[Mapping[str, Tensor]], None], copies: Mapping[str, Tensor]) -> None:
        try:
            self._timed(write, copies)
        except BaseException as fault:
            self._fault = fault  # raised where training waits for the thread

    def _timed(self, write: Callable[[Mapping[str, Tensor]], None], copies: Mapping[str, Tensor]) -> None:
        began = self.clock()
        write(copies)
        self.longest_s = max(self.longest_s, self.clock() - began)


def _copy(value: Tensor, *, always: bool) -> Tensor:
    """Bring a tensor to main memory; one that is there already is copied where ``always``."""
    found = value.detach().to("cpu").contiguous()
    return found.clone() if always and found.data_ptr() == value.data_ptr() else found
