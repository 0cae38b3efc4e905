"""Equal numbers from equal runs: the settings that torch needs for it on a GPU, and the versions below torch.

A CPU gives equal numbers from equal seeds anyway, as long as the number of threads is the same: batches depend on their
place alone, whoever prepares them. Another number of threads adds up in another order.
"""

import os

import torch

WORDED = {
    "cuda": "deterministic: no algorithm is chosen by timing, none adds up in an order that changes",
    "cpu": "deterministic: nothing is chosen by timing; equal weights from equal seeds with equal threads",
    "mps": "deterministic: not proven on mps",
}
"""What is promised, by type of device."""


def make_deterministic() -> None:
    """Let this process compute on GPUs so that equal runs give equal numbers; to be called before any of it.

    An operator that has no such way is used as it is, and torch warns of it.

    Source: PyTorch documentation, "Reproducibility".
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read once, when cuBLAS is first used
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    torch.use_deterministic_algorithms(True, warn_only=True)
    # It would cost time, and nothing here reads what is not written.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def library_versions(device: str) -> dict[str, str]:
    """Give the versions of what computes below torch on a device; empty where that is torch's own."""
    if torch.device(device).type != "cuda":
        return {}
    return {"cuda": str(torch.version.cuda), "cudnn": str(torch.backends.cudnn.version())}
