"""Labels: what the voxels of an annotated map may be.

On the user's disk a class has any integer value (0, 127, 255). Inside, a class is its position in ``Labels.classes``:
background 0, then 1, 2, … without gaps. The ignore label, where there is one, is the position after the last class.
"""

from dataclasses import dataclass

import numpy as np

from planners.records import PlanError

CHUNK_VOXELS = 1 << 20  # encoded at a time: 8 MB of table places, whatever the image's size
TABLE_ENTRIES = 1 << 20  # values spread wider than this are searched instead


@dataclass(frozen=True, kw_only=True)
class LabelClass:
    """One class of the annotation: its name and its value in the user's files."""

    name: str
    value: int


@dataclass(frozen=True, kw_only=True)
class Region:
    """A union of classes that is predicted as one (may overlap others), named by the user's label values."""

    name: str
    values: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Labels:
    """The classes of a dataset.

    Attributes:
        classes: background first; names and values are unique.
        regions: overlapping unions of classes, or empty where every voxel has one class.
        region_values: per region, in the order of ``regions``, the value that is painted where it is found; a later
            region covers an earlier one. Empty: derived (``planners/regions.py``).
        ignore: the value in the user's files that means "not annotated", or None.
        instance_classes: names of the classes whose objects are told apart. The label files then hold the ids of
            objects; which class a voxel has, a second map beside them tells where there is more than one class.
    """

    classes: tuple[LabelClass, ...]
    regions: tuple[Region, ...] = ()
    region_values: tuple[int, ...] = ()
    ignore: int | None = None
    instance_classes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        values = [item.value for item in self.classes] + ([] if self.ignore is None else [self.ignore])
        names = [item.name for item in self.classes]
        if len(self.classes) < 2:
            raise PlanError("labels need a background and at least one more class; declare both in dataset.json")
        for kind, found in (("value", [str(value) for value in values]), ("name", names)):
            twice = sorted({item for item in found if found.count(item) > 1})
            if twice:
                raise PlanError(f"label {kind} {twice[0]} is used twice; give every class a {kind} of its own")
        self._check_regions()

    def _check_regions(self) -> None:
        values = [item.value for item in self.classes]
        names = [item.name for item in self.regions]
        if twice := [name for name in names if names.count(name) > 1]:
            raise PlanError(f"region {twice[0]} is there twice; give every region a name of its own")
        for region in self.regions:
            if strange := [value for value in region.values if value not in values]:
                raise PlanError(f"region {region.name} holds the value {strange[0]}, which no class has; declare it")
            if not region.values:
                raise PlanError(f"region {region.name} holds no class; give it at least one value")
        if self.region_values and len(self.region_values) != len(self.regions):
            raise PlanError(
                f"regions_class_order has {len(self.region_values)} values for {len(self.regions)} regions "
                f"({', '.join(names)}); give one value per region, or leave it out"
            )
        if strange := [value for value in self.region_values if value not in values]:
            raise PlanError(f"regions_class_order holds {strange[0]}, which no class has; use declared values")

    @property
    def num_classes(self) -> int:
        """Number of classes with background, without the ignore label."""
        return len(self.classes)

    @property
    def ignore_index(self) -> int | None:
        """The inner index of the ignore label: the one after the last class."""
        return None if self.ignore is None else self.num_classes

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all classes, background first."""
        return tuple(item.name for item in self.classes)

    @property
    def values(self) -> tuple[int, ...]:
        """Values in the user's files: all classes, then the ignore value where there is one."""
        values = tuple(item.value for item in self.classes)
        return values if self.ignore is None else (*values, self.ignore)

    def encode(self, label: np.ndarray) -> np.ndarray:
        """Map an annotated map to inner indices.

        Args:
            label: any shape; the user's values, integers or floats that are integers.

        Returns:
            Same shape, int16: 0 … num_classes − 1, and ``ignore_index`` where ignored.

        Raises:
            PlanError: the map holds a value that is not declared, or a fraction.
        """
        encoded = np.empty(label.shape, dtype=np.int16)
        source, result = label.reshape(-1), encoded.reshape(-1)
        for start in range(0, source.size, CHUNK_VOXELS):
            result[start : start + CHUNK_VOXELS] = self._encode_chunk(source[start : start + CHUNK_VOXELS])
        return encoded

    def _encode_chunk(self, label: np.ndarray) -> np.ndarray:
        low, high = min(self.values), max(self.values)
        if high - low < TABLE_ENTRIES and low <= label.min() and label.max() <= high:
            place = label.astype(np.int64)
            if label.dtype.kind != "f" or np.array_equal(place, label):
                table = np.full(high - low + 1, -1, dtype=np.int16)
                table[np.array(self.values) - low] = np.arange(len(self.values))
                encoded = table[place - low]
                if encoded.min() >= 0:
                    return encoded
        return self._encode_by_search(label)

    def _encode_by_search(self, label: np.ndarray) -> np.ndarray:
        """Encode any values, or raise for the strange ones among them."""
        found, inverse = np.unique(label, return_inverse=True)
        order = {value: index for index, value in enumerate(self.values)}
        strange = [value.item() for value in found if value.item() not in order]
        if strange:
            shown = ", ".join(f"{value:g}" for value in strange[:5]) + (" …" if len(strange) > 5 else "")
            declared = ", ".join(str(value) for value in self.values)
            raise PlanError(
                f"label value {shown} is not declared (declared: {declared}). Declare it or correct the file"
            )
        table = np.array([order[value.item()] for value in found], dtype=np.int16)
        return table[inverse].reshape(label.shape)

    def decode(self, indices: np.ndarray) -> np.ndarray:
        """Map inner class indices back to the user's values, in the smallest integer type that holds them."""
        table = np.array([item.value for item in self.classes], dtype=self.file_dtype)
        return table[indices]

    @property
    def file_dtype(self) -> np.dtype:
        """The smallest integer type that holds every class value (uint8 before uint16 before int32 …)."""
        values = [item.value for item in self.classes]
        for name in ("uint8", "uint16", "int16", "int32", "int64"):
            limits = np.iinfo(name)
            if limits.min <= min(values) and max(values) <= limits.max:
                return np.dtype(name)
        raise PlanError(f"label value {max(values, key=abs)} does not fit 64 bits; use smaller values")
