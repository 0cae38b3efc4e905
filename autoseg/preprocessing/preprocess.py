"""One case from the image as read to what the network sees, and the exact way back for a segmentation.

The order is: bring the axes into the plan's order, crop to the content, normalize, resample. Normalizing before
resampling keeps the border of the nonzero mask where the image has it.

Source: the order of operations is a fact of nnU-Net v2.8.1.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from autoseg import extensions
from autoseg.errors import ImageError
from autoseg.preprocessing.cropping import Box, box_shape, box_slices, nonzero_box
from autoseg.preprocessing.label_resampling import resample_label
from autoseg.preprocessing.normalization import NORMALIZATIONS
from autoseg.preprocessing.resampling import resample_image, resampled_shape
from autoseg.preprocessing.size_scaling import image_scale
from planners.fingerprint import Shape, Spacing
from planners.labels import Labels
from planners.plan import Configuration, Plan

OUTSIDE = -1
"""Inner label of voxels outside the nonzero mask that nobody annotated as anything but background."""


@dataclass(frozen=True, kw_only=True)
class CaseGrid:
    """Where a preprocessed case lies in its image: all that the way back needs. Axes are in the plan's order.

    Attributes:
        shape_before_crop: voxels of the image as read, but for the order of axes.
        crop_box: the part that was kept.
        shape_after_crop: its voxels.
        spacing_before_mm: spacing of the image.
        shape: voxels after resampling.
        spacing_mm: spacing after resampling: as planned (a 2D configuration keeps axis 0), or finer or coarser where
            the configuration brings images to a common size of their objects.
    """

    shape_before_crop: Shape
    crop_box: Box
    shape_after_crop: Shape
    spacing_before_mm: Spacing
    shape: Shape
    spacing_mm: Spacing


@dataclass(frozen=True, kw_only=True)
class PreprocessedCase:
    """A case as the network sees it.

    Attributes:
        image_CZYX: float32, on ``grid.shape``.
        labels_LZYX: layer 0 holds class indices, ``OUTSIDE`` and the ignore index; layer 1, where objects are told
            apart, their ids, 0 where there is none; None where there is no label.
        grid: where it came from.
    """

    image_CZYX: np.ndarray
    labels_LZYX: np.ndarray | None
    grid: CaseGrid


def preprocess_case(
    image_CZYX: np.ndarray,
    spacing_mm: Sequence[float],
    plan: Plan,
    configuration: Configuration,
    label: np.ndarray | None = None,
) -> PreprocessedCase:
    """Preprocess one case.

    Args:
        image_CZYX: channels, z, y, x as read; any number type. Non-finite voxels take the channel's finite minimum.
        spacing_mm: z, y, x as read.
        plan: gives the order of axes, the channels and their intensities.
        configuration: gives spacing, normalization, resampling; one of the plan's.
        label: on the image's grid: inner class indices z, y, x, as ``plan.labels.encode`` gives them; or layers × z × y
            × x, as ``label_layers.read_layers`` does: class indices, and ids of objects where they are told apart.

    Raises:
        ImageError: the number of channels is not the plan's, or label and image differ in shape, or values do not fit
            the normalization.
        PlanError: the normalization needs intensities that the plan does not hold.
        OptionError: normalization or spline order is unknown.
    """
    _check_fit(image_CZYX, plan, label)
    z, y, x = plan.axis_order
    scale = image_scale(image_CZYX, spacing_mm, configuration)  # as read, as the fingerprint has asked
    image = finite(image_CZYX).transpose(0, 1 + z, 1 + y, 1 + x)
    box, mask = nonzero_box(image)
    spacing = (spacing_mm[z], spacing_mm[y], spacing_mm[x])
    grid = make_grid(image.shape[1:], box, spacing, configuration, scale)
    layers = None if label is None else _crop_layers(label, box, mask, plan)
    if layers is not None:
        mask |= annotated_foreground(layers[0], plan.labels)  # counts as inside, as in nnU-Net
    target = (grid.shape, grid.spacing_before_mm, grid.spacing_mm, configuration.resampling)
    resampled = np.empty((len(image), *grid.shape), dtype=np.float32)
    for index in range(len(image)):  # one at a time: the normalized channels never exist all at once
        normalized = _normalize(image[(index, *box_slices(box))], mask, index, plan, configuration)
        resampled[index] = resample_image(normalized[None], *target)[0]
    labels = None if layers is None else _stacked([resample_label(layer, *target) for layer in layers])
    return PreprocessedCase(image_CZYX=resampled, labels_LZYX=labels, grid=grid)


def make_grid(
    shape: Sequence[int], box: Box, spacing_mm: Spacing, configuration: Configuration, scale: float = 1.0
) -> CaseGrid:
    """Work out shapes and spacings of a case from its shape, crop box and spacing (all in the plan's axis order).

    The grid is ``scale`` times as fine as planned; in 2D along y and x only.
    """
    planned = (spacing / scale for spacing in configuration.spacing_mm)
    target = (*spacing_mm[: 3 - configuration.dimensions], *planned)
    return CaseGrid(
        shape_before_crop=(shape[0], shape[1], shape[2]),
        crop_box=box,
        shape_after_crop=box_shape(box),
        spacing_before_mm=spacing_mm,
        shape=resampled_shape(box_shape(box), spacing_mm, target),
        spacing_mm=(target[0], target[1], target[2]),
    )


def finite(image_CZYX: np.ndarray) -> np.ndarray:
    """Give an image whose non-finite voxels hold the finite minimum of their channel (0 where nothing is finite).

    Args:
        image_CZYX: channels, z, y, x; any number type.

    Returns:
        float32; the input itself where it is float32 and finite. Integers and float64 beyond float32's precision round.
    """
    with np.errstate(over="ignore"):
        image = image_CZYX.astype(np.float32, copy=False)
    for index, channel in enumerate(image):
        if not channel.size or (np.isfinite(channel.min()) and np.isfinite(channel.max())):
            continue
        if np.shares_memory(image, image_CZYX):
            image = image.copy()
        good = np.isfinite(channel)
        image[index][~good] = channel[good].min() if good.any() else 0
    return image


def label_dtype(labels: Labels, highest_id: int | None = None) -> np.dtype:
    """The smallest signed integer type that holds ``OUTSIDE``, every class index and the ignore index.

    Args:
        labels: the plan's.
        highest_id: where there is a layer of ids, the highest; the type then holds it too, and has two bytes at least.
    """
    for name in ("int8", "int16") if highest_id is None else ("int16",):
        if max(len(labels.values) - 1, highest_id or 0) <= np.iinfo(name).max:
            return np.dtype(name)
    return np.dtype("int32")


def annotated_foreground(label: np.ndarray, labels: Labels) -> np.ndarray:
    """Mark the voxels of foreground classes (inner indices). Ignored ones are not among them.

    In nnU-Net v2.8.1 they are: where the air around the content is to be ignored, an image is normalized otherwise in
    training than for prediction.
    """
    foreground: np.ndarray = label > 0
    return foreground if labels.ignore_index is None else foreground & (label != labels.ignore_index)


def shape_as_read(grid: CaseGrid, axis_order: Sequence[int]) -> Shape:
    """Give the shape z, y, x of the image as read."""
    shape = [0, 0, 0]
    for place, axis in enumerate(axis_order):
        shape[axis] = grid.shape_before_crop[place]
    return shape[0], shape[1], shape[2]


def cropped_view(array_ZYX: np.ndarray, grid: CaseGrid, axis_order: Sequence[int]) -> np.ndarray:
    """Look at an array on the image's grid as read through the case's crop box and axis order.

    What is written into the view, slab by slab, stands in ``array_ZYX`` at its place.
    """
    return array_ZYX.transpose(tuple(axis_order))[box_slices(grid.crop_box)]


def uncrop_and_untranspose(
    segmentation_ZYX: np.ndarray, grid: CaseGrid, axis_order: Sequence[int], fill: int = 0
) -> np.ndarray:
    """Bring a segmentation from the cropped grid back to the image as read.

    Args:
        segmentation_ZYX: on ``grid.shape_after_crop``, in the plan's axis order.
        grid: the case's.
        axis_order: the plan's.
        fill: value outside the crop box.

    Returns:
        A new array of the same type on the image's grid, axes as read.
    """
    result = np.full(shape_as_read(grid, axis_order), fill, dtype=segmentation_ZYX.dtype)
    cropped_view(result, grid, axis_order)[...] = segmentation_ZYX
    return result


def _crop_layers(label: np.ndarray, box: Box, mask: np.ndarray, plan: Plan) -> np.ndarray:
    """Bring label layers into the plan's order of axes, crop them, mark what lies outside the mask; layers × z × y × x.

    Ids are background there already, since only classes have objects.
    """
    layers = label if label.ndim == 4 else label[None]
    z, y, x = plan.axis_order
    cropped = layers.transpose(0, 1 + z, 1 + y, 1 + x)[(slice(None), *box_slices(box))]
    highest = None if len(cropped) == 1 else int(cropped[1].max(initial=0))
    cropped = cropped.astype(label_dtype(plan.labels, highest))
    cropped[0][(cropped[0] == 0) & ~mask] = OUTSIDE
    return cropped


def _stacked(layers: Sequence[np.ndarray]) -> np.ndarray:
    """Give the layers as one array; a single one is not copied."""
    return layers[0][None] if len(layers) == 1 else np.stack(layers)


def _normalize(
    channel_ZYX: np.ndarray, mask: np.ndarray, index: int, plan: Plan, configuration: Configuration
) -> np.ndarray:
    normalize = extensions.find(NORMALIZATIONS, "normalization", configuration.normalization[index])
    channel = plan.channels[index]
    try:
        return normalize(channel_ZYX, mask if configuration.use_mask_for_norm[index] else None, channel.intensities)
    except ImageError as fault:
        raise ImageError(f"channel {index} ({channel.name}): {fault}") from fault


def _check_fit(image: np.ndarray, plan: Plan, label: np.ndarray | None) -> None:
    if image.ndim != 4 or len(image) != len(plan.channels):
        found = len(image) if image.ndim == 4 else "no"
        names = ", ".join(channel.name for channel in plan.channels)
        raise ImageError(
            f"image has {found} channels; the plan needs {len(plan.channels)} ({names}). "
            "Give one file, or one component, per channel"
        )
    if label is not None and label.shape[-3:] != image.shape[1:]:
        shapes = ["×".join(map(str, shape)) for shape in (label.shape[-3:], image.shape[1:])]
        raise ImageError(f"label has shape {shapes[0]}, image has {shapes[1]}. Export both from the same grid")
    if 0 in image.shape:
        raise ImageError(f"image has shape {'×'.join(map(str, image.shape[1:]))}: it holds no voxels. Export it again")
