"""Models of other programs, brought into this one's records and names."""

from autoseg.interop.nnunet import NnunetWeights, open_nnunet

__all__ = ["NnunetWeights", "open_nnunet"]
