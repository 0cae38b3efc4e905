"""Fingerprint: measured facts about a dataset; all that the planners may know of it."""

from dataclasses import dataclass

from planners.labels import Labels
from planners.records import PlanError

Shape = tuple[int, int, int]
"""Voxels of an array along z, y, x. A 2D image has a z of length 1."""

Spacing = tuple[float, float, float]
"""Millimetres between voxel centres along z, y, x. A 2D image has a z spacing of 999 times its largest in-plane one."""

Center = tuple[float, float, float]
"""A position along z, y, x as a fraction of the image's extent: 0 at the first voxel's edge, 1 at the last one's."""


BODY_AXES = ("LR", "PA", "SI")
"""The ends of the body's axes: left and right, posterior and anterior, superior and inferior."""


@dataclass(frozen=True, kw_only=True)
class Intensities:
    """Statistics of one channel over the foreground voxels of all cases."""

    mean: float
    median: float
    std: float
    minimum: float
    maximum: float
    percentile_00_5: float
    percentile_99_5: float


@dataclass(frozen=True, kw_only=True)
class Channel:
    """One image channel: its name (which chooses the normalization) and its measured intensities, if any."""

    name: str
    intensities: Intensities | None = None


@dataclass(frozen=True, kw_only=True)
class CaseObjects:
    """The annotated objects of one case: how many, and their median diameter in mm (None where there are none)."""

    count: int
    diameter_mm: float | None = None


@dataclass(frozen=True, kw_only=True)
class InstanceStats:
    """Facts about the annotated objects of all cases.

    The diameter of an object is that of the circle (in volumes: the ball) of equal size.

    Attributes:
        cases: per measured case.
        diameters_mm: 5th, 50th and 95th percentile over all objects.
        solidity: median over objects of their voxels / those of their convex hull.
        elongation: median over objects of the longest / the second longest principal axis.
        touching_fraction: share of the objects that have a voxel next to another object's.
        background_fraction: share of the voxels, over all cases, that belong to no object and no class.
    """

    cases: tuple[CaseObjects, ...]
    diameters_mm: tuple[float, float, float]
    solidity: float
    elongation: float
    touching_fraction: float
    background_fraction: float


@dataclass(frozen=True, kw_only=True)
class Fingerprint:
    """Facts about a dataset.

    Attributes:
        dataset: its name.
        channels: in the order of the image files.
        labels: the declared classes.
        num_cases: training cases of the dataset (may exceed the number of cases measured).
        case_ids: the measured cases, sorted; may be empty in a fingerprint written by hand.
        spacings_mm: per measured case, z, y, x as the file's array axes lie.
        shapes: per measured case, voxels after cropping to nonzero, z, y, x.
        cropped_fraction: median over cases of voxels after cropping / before.
        class_voxels: per measured case, voxels of each class (background first), None where the case has not been
            annotated for it; may be empty.
        class_centers: per measured case and class (background first), the mean position z, y, x as read, as a fraction
            of the image's extent; None where the case does not show the class. May be empty.
        orientations: per measured case, the directions in which the array's z, y, x run, such as ``SPL``: to the
            superior, the posterior, the left; None where the file does not say. May be empty.
        image_percentiles: per measured case and channel, the 5th, 25th, 50th, 75th and 95th percentile of all voxels
            that are not zero. No planner uses them; new images are compared with them. May be empty.
        instances: of the annotated objects; None where no class has instances.
        size_features: per measured case, what the diameter of its objects is estimated from by the image alone
            (``preprocessing.size_features``). Empty where no class has instances.
    """

    dataset: str
    channels: tuple[Channel, ...]
    labels: Labels
    num_cases: int
    case_ids: tuple[str, ...] = ()
    spacings_mm: tuple[Spacing, ...]
    shapes: tuple[Shape, ...]
    cropped_fraction: float = 1.0
    class_voxels: tuple[tuple[int | None, ...], ...] = ()
    class_centers: tuple[tuple[Center | None, ...], ...] = ()
    orientations: tuple[str | None, ...] = ()
    image_percentiles: tuple[tuple[tuple[float, ...], ...], ...] = ()
    instances: InstanceStats | None = None
    size_features: tuple[tuple[float, ...], ...] = ()

    def __post_init__(self) -> None:
        if not self.spacings_mm or len(self.spacings_mm) != len(self.shapes):
            raise PlanError(
                f"fingerprint has {len(self.spacings_mm)} spacings and {len(self.shapes)} shapes; "
                "it needs one of each per case"
            )
        if any(value <= 0 for spacing in self.spacings_mm for value in spacing):
            raise PlanError("fingerprint holds a spacing that is not positive; correct that case's header")
        if any(value < 1 for shape in self.shapes for value in shape):
            raise PlanError("fingerprint holds a shape with an empty axis; remove that case")
        for name in ("class_voxels", "class_centers", "orientations", "image_percentiles", "size_features"):
            if len(getattr(self, name)) not in (0, len(self.shapes)):
                raise PlanError(
                    f"fingerprint has {len(getattr(self, name))} {name} for {len(self.shapes)} cases; give one per case"
                )
        for item in self.orientations:
            if item is not None and (len(item) != 3 or any(len(set(item) & set(ends)) != 1 for ends in BODY_AXES)):
                raise PlanError(f"fingerprint holds the orientation {item!r}; give three letters such as SPL, or null")
        if self.num_cases < 1 or not self.channels:
            raise PlanError("fingerprint needs at least one case and one channel")
