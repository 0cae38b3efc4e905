"""Surface distances: how far the surface of a prediction lies from the label's, in millimetres.

``measure_surfaces`` does the work once per pair; ``hd``, ``hd95``, ``assd`` and ``nsd`` read it. Surfaces and areas
are those of ``surface_elements``; a mask's surface is closed at the image's border. Distances are exact, between the
points of the corner grid where surface elements lie.

MONAI, medpy and others measure between *voxels* at the inner border of the masks instead, each counted alike: up to a
voxel apart from the numbers here. ``voxel_borders`` has those.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from autoseg.evaluation.nearest import nearest_mm, window
from autoseg.evaluation.surface_elements import element_areas, neighbour_codes, on_surface

if TYPE_CHECKING:
    from autoseg.evaluation.metric_options import MetricOptions
    from autoseg.evaluation.pairs import Pair

ROUNDING = 1e-12
"""Relative: sums of areas that differ by less are equal; without it the order of summing decides where exactly 95 % of
a surface lie within a distance. Assumption: far above the rounding of such sums, far below any part of a surface."""


@dataclass(frozen=True, kw_only=True, eq=False)
class DirectedDistances:
    """How far the elements of one surface lie from another surface.

    Attributes:
        distances_mm: float64, ascending; one per surface element; no entry where a mask is empty.
        areas: float64, of the same elements in mm² (2D: their lengths in mm); no entry where the mask is empty.
    """

    distances_mm: np.ndarray
    areas: np.ndarray

    @property
    def area(self) -> float:
        """The whole surface in mm² (2D: mm)."""
        return float(self.areas.sum())

    def area_within(self, distance_mm: float) -> float:
        """The part of the surface that lies at most so far from the other one."""
        return float(self.areas[: np.searchsorted(self.distances_mm, distance_mm, side="right")].sum())

    def mean_mm(self) -> float:
        """The mean distance, each element weighing as much as its area."""
        return float(self.distances_mm @ self.areas) / self.area

    def percentile_mm(self, percent: float) -> float:
        """The least distance within which so many percent of the surface lie; the surface must have elements."""
        sums = np.cumsum(self.areas)
        index = np.searchsorted(sums, percent / 100 * sums[-1] * (1 - ROUNDING))
        return float(self.distances_mm[index])


@dataclass(frozen=True, kw_only=True, eq=False)
class SurfaceDistances:
    """The distances of two surfaces from each other.

    Attributes:
        from_label: of the label's surface from the prediction's.
        from_prediction: of the prediction's surface from the label's.
    """

    from_label: DirectedDistances
    from_prediction: DirectedDistances

    @property
    def measured(self) -> bool:
        """Whether both masks hold a voxel; else there are areas, but no distances."""
        return bool(self.from_label.distances_mm.size)


def measure_surfaces(pair: "Pair") -> SurfaceDistances:
    """Measure how far the surfaces of label and prediction lie from each other, both ways.

    Where one mask is empty there are no distances; the areas of the other are given. Source: see ``surface_elements``.
    """
    near = window(pair.spacing_mm)
    areas = element_areas(pair.spacing_mm)
    surfaces, points, weights = [], [], []
    for mask in (pair.label, pair.prediction):
        codes = neighbour_codes(mask, near.reach)
        surface = on_surface(codes)
        flat = np.flatnonzero(surface)
        surfaces.append(surface)
        points.append(flat)
        weights.append(areas[codes.reshape(-1)[flat]])
    if not points[0].size or not points[1].size:
        directed = [DirectedDistances(distances_mm=np.zeros(0), areas=weight) for weight in weights]
    else:
        directed = []
        for one, other in ((0, 1), (1, 0)):
            order, distances = nearest_mm(points[one], surfaces[other], points[other], pair.spacing_mm)
            directed.append(DirectedDistances(distances_mm=distances, areas=weights[one][order]))
    return SurfaceDistances(from_label=directed[0], from_prediction=directed[1])


def hd(pair: "Pair", options: "MetricOptions") -> float | None:
    """Measure the Hausdorff distance in mm: the largest distance from an element of either surface to the other one.

    Empty masks: None where label or prediction or both hold no voxel. Heeds no option. Definition as DeepMind's
    surface-distance at 100 %; MONAI and medpy measure between border voxels (``voxel_borders``).
    Source: Huttenlocher et al., Comparing images using the Hausdorff distance, 1993.
    """
    del options
    surfaces = pair.surfaces
    if not surfaces.measured:
        return None
    return float(max(surfaces.from_label.distances_mm[-1], surfaces.from_prediction.distances_mm[-1]))


def hd95(pair: "Pair", options: "MetricOptions") -> float | None:
    """Measure the 95 % Hausdorff distance in mm: within it lie 95 % of the label's surface, and of the prediction's.

    Per direction the least distance within which 95 % of the surface's area lie; the larger of the two. Not
    interpolated. Equal to DeepMind's surface-distance (``compute_robust_hausdorff(…, 95)``), except where exactly 95 %
    of the area lie within a distance: that package takes it or the next one by rounding, here it is taken always. This
    needs few and regular elements. MONAI counts border voxels, each alike, and interpolates between them; medpy does so
    over both directions together (``voxel_borders``).

    Empty masks: None where label or prediction or both hold no voxel. Heeds no option.
    Source: Nikolov et al., 2018.
    """
    del options
    surfaces = pair.surfaces
    if not surfaces.measured:
        return None
    return max(surfaces.from_label.percentile_mm(95), surfaces.from_prediction.percentile_mm(95))


def assd(pair: "Pair", options: "MetricOptions") -> float | None:
    """Measure the average symmetric surface distance in mm: the average of the two directed means.

    A directed mean weighs each surface element by its area: DeepMind's ``compute_average_surface_distance``, which
    gives both means and leaves the averaging to the caller. Each direction counts half, whatever its area. MONAI
    averages over the border voxels of both directions together (``voxel_borders``).

    Empty masks: None where label or prediction or both hold no voxel. Heeds no option.
    Source: Heimann et al., Comparison and evaluation of methods for liver segmentation from CT datasets, 2009.
    """
    del options
    surfaces = pair.surfaces
    if not surfaces.measured:
        return None
    return (surfaces.from_label.mean_mm() + surfaces.from_prediction.mean_mm()) / 2


def nsd(pair: "Pair", options: "MetricOptions") -> float | None:
    """Measure the normalized surface Dice: the part of both surfaces that lies within a tolerance of the other one.

    The areas within ``options.tolerance_mm`` (that distance included), summed over both surfaces, by the area of both.
    Equal to DeepMind's ``compute_surface_dice_at_tolerance``, and to MONAI's with ``use_subvoxels``; without, that one
    counts border voxels.

    Empty masks: None where both hold no voxel; 0 where one of them does not, as nothing lies within any distance.
    Source: Nikolov et al., 2018.
    """
    surfaces = pair.surfaces
    both = (surfaces.from_label, surfaces.from_prediction)
    area = sum(item.area for item in both)
    if not area:
        return None
    if not surfaces.measured:
        return 0.0
    return sum(item.area_within(options.tolerance_mm) for item in both) / area
