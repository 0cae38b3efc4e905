"""The files of an image in which objects were told apart, and which of them belong to a segmentation that lies there.

    CASE.ext            ids of the objects, in the smallest type that the format has for them; written last
    classes/CASE.ext    the class of every voxel, in the user's values, where there is more than one class
    CASE.objects.csv    one row per object (``object_table``)
    CASE.geojson        the outlines, of a 2D image (``geojson``)

``autoseg evaluate --task instance`` takes a folder of them as predictions, and as labels.
"""

import contextlib
from pathlib import Path

from autoseg.data.io import READERS, Geometry, image_ending, image_stem, open_label
from autoseg.data.io_write import check_ids_fit
from autoseg.errors import ImageError
from autoseg.evaluation.labelled_objects import classes_file
from autoseg.inference.geojson import geojson_text
from autoseg.inference.instances import SegmentedObjects, write_object_maps
from autoseg.inference.object_table import find_places, is_flat, table_text
from autoseg.run_folder import write_atomic
from planners.labels import Labels

TABLE_ENDING, OUTLINES_ENDING = ".objects.csv", ".geojson"


def table_file(segmentation: Path) -> Path:
    """Give the place of the table of objects that goes with a map of ids."""
    return segmentation.with_name(image_stem(segmentation) + TABLE_ENDING)


def outlines_file(segmentation: Path) -> Path:
    """Give the place of the outlines that go with a map of ids of a 2D image."""
    return segmentation.with_name(image_stem(segmentation) + OUTLINES_ENDING)


def remove_companions(segmentation: Path) -> None:
    """Remove all files that belong to a map of ids, and the folder of classes once it is empty."""
    for path in (table_file(segmentation), outlines_file(segmentation), classes_file(segmentation)):
        path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # it is not there, or holds other files
        classes_file(segmentation).parent.rmdir()


def write_objects(segmentation: Path, objects: SegmentedObjects, labels: Labels, geometry: Geometry) -> None:
    """Write the objects of an image and all that belongs to them; the map of ids last.

    Args:
        segmentation: where the map of ids is to lie.
        objects: of the image.
        labels: names and values of the classes.
        geometry: as the image was read.

    Raises:
        ImageError: the format cannot hold as many ids, or the disk does not take a file. Then there is no map of ids.
    """
    check_ids_fit(segmentation, len(objects))
    places = find_places(objects.ids, len(objects))
    write_atomic(table_file(segmentation), table_text(objects, places, labels, geometry))
    if is_flat(objects.ids.shape):
        write_atomic(outlines_file(segmentation), geojson_text(objects, places, labels))
    write_object_maps(segmentation, objects, labels, geometry)


def has_all_files(segmentation: Path, labels: Labels) -> bool:
    """Tell whether a map of ids lies there, and all that belongs to it."""
    wanted = [segmentation, table_file(segmentation)]
    wanted += [classes_file(segmentation)] if labels.num_classes > 2 else []
    if not all(path.exists() for path in wanted):
        return False
    return outlines_file(segmentation).exists() or not _is_image(segmentation)


def _is_image(segmentation: Path) -> bool:
    """Tell whether a file holds an image rather than a volume; asks the file where its format may hold both."""
    if not READERS[image_ending(segmentation)].volume:
        return True
    try:
        return is_flat(open_label(segmentation).shape)
    except ImageError:
        return True
