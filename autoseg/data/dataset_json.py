"""What a dataset.json says: channels, labels, groups, and the folds of a splits_final.json beside it.

Three dialects are understood: nnU-Net v2 (``{"name": value}``, regions as lists), the Medical Segmentation Decathlon
(``{"value": "name"}``), and our own additions (``groups``, ``labels_present``).
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from autoseg.data.splits import Fold, Splits
from autoseg.errors import DatasetError
from planners.labels import LabelClass, Labels, Region
from planners.records import LARGEST, LONGEST_NAME, PlanError, RecordError, parse, quoted, short, shown

BACKGROUND, IGNORE = "background", "ignore"


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        DatasetError: it cannot be read or is no JSON; the message says where.
    """
    try:
        return parse(read_text(path))
    except RecordError as fault:
        raise DatasetError(f"{path} {fault}. Correct it there") from fault


def read_text(path: Path) -> str:
    """Read a text file.

    Raises:
        DatasetError: it cannot be read, or is no text.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as fault:
        raise DatasetError(f"{path} is no text in UTF-8. Save it as UTF-8") from fault
    except OSError as fault:
        raise DatasetError(f"{path} cannot be read: {fault.strerror}. Check the file") from fault


def channels_of(content: Mapping[str, Any], path: Path) -> tuple[str, ...] | None:
    """Give the channel names in order (``channel_names`` or ``modality``), or None where there are none.

    Raises:
        DatasetError: they are written in a way that cannot be understood.
    """
    named = content.get("channel_names", content.get("modality"))
    if named is None:
        return None
    if isinstance(named, Mapping) and named and all(str(key).isdecimal() for key in named):
        numbers = sorted(int(key) for key in named)
        if numbers == list(range(len(numbers))) and all(str(number) in named for number in numbers):
            _check_names(map(str, named.values()), path)
            return tuple(str(named[str(number)]) for number in numbers)
    if isinstance(named, list) and named:
        _check_names(map(str, named), path)
        return tuple(str(name) for name in named)
    raise DatasetError(f'{path}: channel_names are {shown(named)}. Write them like {{"0": "T1", "1": "T2"}}')


def labels_of(content: Mapping[str, Any], path: Path) -> Labels | None:
    """Give the declared labels, or None where there are none.

    Raises:
        DatasetError: a value is no integer, or two classes share one.
    """
    declared = content.get("labels")
    if declared is None:
        return None
    if not isinstance(declared, Mapping) or not declared:
        raise DatasetError(f'{path}: labels are {shown(declared)}. Write them like {{"background": 0, "tumour": 1}}')
    if all(_is_number(key) for key in declared) and all(isinstance(name, str) for name in declared.values()):
        entries = {name: [_integer(key, name, path)] for key, name in declared.items()}
        if len(entries) < len(declared):
            raise DatasetError(f"{path}: two label values have the same name. Give every class a name of its own")
    else:
        entries = {str(name): _values(value, str(name), path) for name, value in declared.items()}
    _check_names(entries, path)
    try:
        return _labels(entries, content, path)
    except PlanError as fault:
        raise DatasetError(f"{path}: {fault}") from fault


def _check_names(names: Iterable[str], path: Path) -> None:
    for name in names:
        if not name.isprintable() or len(name) > LONGEST_NAME:
            raise DatasetError(f"{path} names {shown(name)}, which cannot be printed or is too long. Name it anew")


def _labels(entries: Mapping[str, list[int]], content: Mapping[str, Any], path: Path) -> Labels:
    ignored = [name for name in entries if name.casefold() == IGNORE]
    ignore = entries[ignored[0]] if ignored else None
    if ignore is not None and len(ignore) != 1:
        raise DatasetError(f"{path}: the ignore label has the values {shown(ignore)}; it may have one only")
    classes = {name: values for name, values in entries.items() if name not in ignored}
    background = _background(classes, None if ignore is None else ignore[0], path)
    regions: tuple[Region, ...] = ()
    if any(len(values) > 1 for values in classes.values()):
        regions = tuple(Region(name=name, values=tuple(v)) for name, v in classes.items() if v != [background])
        single = {values[0]: name for name, values in classes.items() if len(values) == 1}
        every = sorted({value for values in classes.values() for value in values})
        classes = {
            single.get(value, BACKGROUND if value == background else f"label_{value}"): [value] for value in every
        }
    by_value = sorted((values[0], name) for name, values in classes.items())
    if not any(value == background for value, _ in by_value):
        by_value.insert(0, (background, BACKGROUND))
    by_value.sort(key=lambda item: item[0] != background)  # background first, then by value
    return Labels(
        classes=tuple(LabelClass(name=name, value=value) for value, name in by_value),
        regions=regions,
        region_values=_painted_values(content, path) if regions else (),
        ignore=None if ignore is None else ignore[0],
    )


def _background(classes: Mapping[str, list[int]], ignore: int | None, path: Path) -> int:
    """Give the value of the background: that of the class so named, else 0."""
    named = [values[0] for name, values in classes.items() if name.casefold() == BACKGROUND and len(values) == 1]
    if not named and ignore == 0:
        raise DatasetError(
            f"{path}: 0 is the ignore label, and no class is the background. Declare its value under {BACKGROUND!r}"
        )
    return named[0] if named else 0


def _painted_values(content: Mapping[str, Any], path: Path) -> tuple[int, ...]:
    """Give the values of ``regions_class_order``, one per region; none where it is not there (or the word "None")."""
    declared = content.get("regions_class_order")
    if declared in (None, "None", []):
        return ()
    if not isinstance(declared, list):
        raise DatasetError(f"{path}: regions_class_order is {shown(declared)}. Give a list with one value per region")
    return tuple(_integer(item, "regions_class_order", path) for item in declared)


def _values(value: Any, name: str, path: Path) -> list[int]:
    """Give the values of a label in ascending order, each once; lists in lists are opened."""
    if not isinstance(value, list):
        return [_integer(value, name, path)]
    if not value:
        raise DatasetError(f"{path}: label {quoted(name)} has no value. Give it an integer, or a list of them")
    return sorted({found for item in value for found in _values(item, name, path)})


def _integer(value: Any, name: str, path: Path) -> int:
    if _is_number(value) and float(value).is_integer() and abs(float(value)) < LARGEST:
        return int(float(value))
    raise DatasetError(f"{path}: label {quoted(name)} has the value {quoted(value)}, which is no integer. Give it one")


def _is_number(value: Any) -> bool:
    if isinstance(value, bool):
        return False
    try:
        float(value)
    except (TypeError, ValueError, OverflowError):
        return False
    return True


def groups_of(content: Mapping[str, Any], path: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Give case → group, from ``groups`` written as ``{case: group}`` or ``{group: [cases]}``.

    Returns:
        The groups, and what is odd: per case that is in two groups, which. Those two are taken as one.

    Raises:
        DatasetError: it is written otherwise.
    """
    declared = content.get("groups", {})
    if not isinstance(declared, Mapping):
        raise DatasetError(f'{path}: groups are {shown(declared)}. Write them like {{"patient1": ["case1", "case2"]}}')
    groups: dict[str, str] = {}
    odd: dict[str, str] = {}
    same: dict[str, str] = {}
    for key, value in declared.items():
        pairs = [(str(case), str(key)) for case in value] if isinstance(value, list) else [(str(key), str(value))]
        for case, group in pairs:
            group = same.get(group, group)
            first = groups.setdefault(case, group)
            if first != group:
                odd[case] = f"is in the groups {first} and {group}, which are taken as one"
                same = {**{name: first if other == group else other for name, other in same.items()}, group: first}
                groups = {name: same.get(other, other) for name, other in groups.items()}
    return groups, odd


def classes_present(
    listed: Mapping[str, Sequence[str]], labels: Labels | None, known_cases: Collection[str], place: str
) -> dict[str, tuple[int, ...]]:
    """Give case → inner indices of the classes that were annotated in it, background included.

    Args:
        listed: case → names of classes or regions. A region stands for all its classes.
        labels: as declared.
        known_cases: the dataset's.
        place: file and key or column, for messages.

    Raises:
        DatasetError: a case or a name is not known, or there are no labels to name; all faults are listed.
    """
    if not listed:
        return {}
    if labels is None:
        raise DatasetError(f"{place} names classes, but no labels are declared. Declare them in dataset.json")
    indices: dict[str, tuple[int, ...]] = {name: (index,) for index, name in enumerate(labels.names)}
    values = [item.value for item in labels.classes]
    indices |= {region.name: tuple(values.index(value) for value in region.values) for region in labels.regions}
    present, faults = {}, []
    for case, names in listed.items():
        unknown = [name for name in names if name not in indices]
        if case not in known_cases:
            faults.append(f"case {short(case)} is not in the dataset")
        elif unknown:
            more = f" and {len(unknown) - 3} more" if len(unknown) > 3 else ""
            listing = ", ".join(map(short, unknown[:3])) + more
            faults.append(f"case {short(case)} names {listing} (declared: {', '.join(indices)})")
        else:
            present[case] = tuple(sorted({0, *(index for name in names for index in indices[name])}))
    if faults:
        more = f"; and {len(faults) - 5} more" if len(faults) > 5 else ""
        raise DatasetError(f"{place}: {'; '.join(faults[:5])}{more}. Correct these entries")
    everything = tuple(range(labels.num_classes))
    return {case: found for case, found in present.items() if found != everything}


def labels_present_of(content: Mapping[str, Any], path: Path) -> dict[str, list[str]]:
    """Give case → names of the classes annotated in it, for the cases of which not all are.

    Raises:
        DatasetError: it is written otherwise.
    """
    declared = content.get("labels_present", {})
    if isinstance(declared, Mapping) and all(isinstance(names, list) for names in declared.values()):
        return {str(case): [str(name) for name in names] for case, names in declared.items()}
    raise DatasetError(f'{path}: labels_present is {shown(declared)}. Write it like {{"case1": ["liver", "spleen"]}}')


def splits_from(path: Path) -> Splits:
    """Read folds from a file as nnU-Net v2 has it: ``[{"train": [...], "val": [...]}, ...]``.

    Raises:
        DatasetError: it is written otherwise.
    """
    content = read_json(path)
    if isinstance(content, Mapping):
        content = content.get("folds")
    folds = []
    for entry in content if isinstance(content, list) else [None]:
        sides = [entry.get("train"), entry.get("val", entry.get("validation"))] if isinstance(entry, Mapping) else []
        lists = [side for side in sides if isinstance(side, list)]
        if len(lists) != 2:
            raise DatasetError(f'{path} is no list of folds. Write it like [{{"train": ["a"], "val": ["b"]}}, …]')
        folds.append(Fold(train=tuple(map(str, lists[0])), validation=tuple(map(str, lists[1]))))
    return Splits(folds=tuple(folds), source=path.name)
