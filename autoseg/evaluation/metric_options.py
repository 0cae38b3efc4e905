"""What a metric may be told: tolerances, connectivity, how lesions are counted. A protocol fixes them per structure."""

from dataclasses import dataclass

FULL = "full"
"""Voxels that share a corner, an edge or a face belong together (26 neighbours in 3D, 8 in 2D)."""

FACES = "faces"
"""Only voxels that share a face belong together (6 neighbours in 3D, 4 in 2D)."""


@dataclass(frozen=True, kw_only=True)
class MetricOptions:
    """Settings that metrics read; each metric says in its docstring which of them it heeds.

    Attributes:
        tolerance_mm: distance up to which a surface counts as right (``nsd``).
        boundary_fraction: width of the boundary band as a part of the image's diagonal (``boundary_iou``).
            Source: Cheng et al., Boundary IoU, 2021, section 5: 2 %.
        connectivity: which voxels make one lesion: ``full`` or ``faces``.
        lesion_min_mm3: lesions of the label count only where they are larger than this.
        lesion_dilation: voxels by which lesions of the label are grown before they are told apart, so that close ones
            count as one; 0 leaves them as they are.
        lesion_overlap: a lesion counts as detected where more than this fraction of it is covered; 0: any voxel.
        lesion_iou: a lesion counts as detected where its IoU with one lesion of the other side is higher than this
            (from 0.5 on, at most one can be); 0: it need not be. At most one of the two may be set.
        lesion_penalty_mm: distance that stands for a lesion that was missed, or found where none is.
            Source: BraTS 2023, diagonal of a 240 × 240 × 155 mm image rounded up.
    """

    tolerance_mm: float = 1.0
    boundary_fraction: float = 0.02
    connectivity: str = FULL
    lesion_min_mm3: float = 0.0
    lesion_dilation: int = 0
    lesion_overlap: float = 0.0
    lesion_iou: float = 0.0
    lesion_penalty_mm: float = 374.0

    def __post_init__(self) -> None:
        if self.connectivity not in (FULL, FACES):
            raise ValueError(f"connectivity {self.connectivity!r} is neither {FULL!r} nor {FACES!r}")
        if self.lesion_overlap and self.lesion_iou:
            raise ValueError("lesion_overlap and lesion_iou are two ways to say when a lesion is detected; set one")
