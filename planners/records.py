"""Records: frozen dataclasses that live on disk as JSON, strictly checked on the way back.

A record is a ``@dataclass(frozen=True, kw_only=True)`` whose fields are numbers, strings, booleans, other records,
tuples of these, ``dict[str, X]`` or ``X | None``. What is read must be complete and free of surplus: every fault names
its place, such as ``$.configurations[0].batch_size``.
"""

import dataclasses
import functools
import hashlib
import json
import math
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

Record = TypeVar("Record")

DEEPEST = 100
"""Levels of lists and objects within one another that are read; ours have fewer than ten."""

LARGEST = 2**63
"""Whole numbers must stay below it; the sizes and counts of a file fit into 64 bits."""

LONGEST_NAME = 200
"""Bytes of a name of a case or a configuration; files are named after it, with endings, and systems allow 255."""

LETTERS_SHOWN = 40
"""Of a value or a name that does not fit, in a message."""

PLAIN_TYPES = frozenset((float, int, str, bool, type(None)))
"""Values that are JSON already: most of a record's, so they are asked for first."""

ENCODER = json.JSONEncoder(ensure_ascii=False)
"""Writes the files' letters as they are. Made once: ``json.dumps`` makes one per call, thousands for a record."""


class RecordError(ValueError):
    """A JSON value that does not fit the record it should become."""


class PlanError(ValueError):
    """No possible plan, or a plan that cannot be carried out. The message says what was found and what to do."""


def to_json(value: Any) -> Any:
    """Turn a record into plain JSON values (dicts, lists, numbers, strings)."""
    if type(value) in PLAIN_TYPES:
        return value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {name: to_json(getattr(value, name)) for name in _field_names(type(value))}
    if isinstance(value, Mapping):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(item) for item in value]
    return value


def parse(text: str) -> Any:
    """Read JSON from a text that anybody may have written.

    Returns:
        As ``json.loads`` gives it; NaN and infinity are left to whoever takes the value.

    Raises:
        RecordError: it is no JSON, says one thing twice, is nested beyond any use, or holds a number with thousands of
            digits or letters that are none (half a surrogate pair, a zero byte). The message
            goes on after the file's name.
    """
    try:
        value = json.loads(text, object_pairs_hook=_without_doubles)
    except json.JSONDecodeError as fault:
        raise RecordError(f"is not JSON: {fault.msg} in line {fault.lineno}, column {fault.colno}") from fault
    except RecursionError as fault:
        raise RecordError(f"is nested deeper than {DEEPEST} levels") from fault
    except RecordError:
        raise
    except ValueError as fault:  # Python refuses to convert thousands of digits
        raise RecordError("holds a number of thousands of digits") from fault
    _check_values(value)
    return value


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        double = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise RecordError(f"has {shown(double)} twice in one object")
    return found


def _check_values(value: Any) -> None:
    """Refuse what later steps could not carry, without recursion."""
    level = [value]
    for _ in range(DEEPEST + 1):
        texts = [item for item in level if isinstance(item, str)]
        below = [item for item in level if isinstance(item, list)]
        for item in level:
            if isinstance(item, dict):
                texts += item
                below.append(list(item.values()))
        for text in texts:
            if "\0" in text or not (text.isascii() or _is_unicode(text)):
                raise RecordError(f"holds the text {shown(text)}, with letters that are none")
        if not below:
            return
        level = [item for items in below for item in items]
    raise RecordError(f"is nested deeper than {DEEPEST} levels")


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def shown(value: Any) -> str:
    """Write a value for a message: on one line, as JSON, its beginning where it is long."""
    text = json.dumps(value, default=str)
    return text if len(text) <= LETTERS_SHOWN else text[: LETTERS_SHOWN - 3] + "..."


def quoted(value: Any) -> str:
    """Write a value as Python does, for a message: on one line, its beginning where it is long."""
    text = repr(value)
    return text if len(text) <= LETTERS_SHOWN and text.isprintable() else shown(value)


def short(name: str) -> str:
    """Write a name for a message: as it is, but for one that is long or cannot be printed."""
    return name if name.isprintable() and len(name) <= 2 * LETTERS_SHOWN else shown(name)


def is_file_name(name: str) -> bool:
    """Tell whether a name can stand for a file or a folder on any system, and for nothing elsewhere."""
    inside = name.strip() not in ("", ".", "..") and not {"/", "\\"} & set(name)
    return inside and name.isprintable() and len(name.encode(errors="replace")) <= LONGEST_NAME


def from_json(record_type: type[Record], value: Any, place: str = "$") -> Record:
    """Build a record from JSON values.

    Args:
        record_type: the dataclass to build.
        value: what ``json.load`` gave.
        place: where in the file the value stands; faults are reported below it.

    Raises:
        RecordError: a key is missing, unknown or of the wrong type; the message begins with its place.
    """
    return typing.cast(Record, _convert(record_type, value, place))


def dumps(record: Any) -> str:
    """Give the text of a record's file: indented, short lists of numbers on one line, a newline at the end."""
    return _layout(to_json(record), 0) + "\n"


def digest(value: Any) -> str:
    """Identify a record (or any JSON value) by its content: 16 hexadecimal digits of its SHA-256."""
    text = json.dumps(to_json(value), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _layout(value: Any, depth: int) -> str:
    flat = ENCODER.encode(value)
    if not isinstance(value, dict | list) or not value or (len(flat) <= 100 and not _holds_records(value)):
        return flat
    pad = " " * (depth + 1)
    if isinstance(value, dict):
        lines = [f"{pad}{json.dumps(key)}: {_layout(item, depth + 1)}" for key, item in value.items()]
        return "{\n" + ",\n".join(lines) + "\n" + " " * depth + "}"
    return "[\n" + ",\n".join(pad + _layout(item, depth + 1) for item in value) + "\n" + " " * depth + "]"


def _holds_records(value: Any) -> bool:
    items = value.values() if isinstance(value, dict) else value
    return isinstance(value, dict) and len(value) > 3 and any(isinstance(item, dict) for item in items)


def _convert(expected: Any, value: Any, place: str) -> Any:
    origin, arguments = _parts(expected)
    if expected is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        return _convert_union(arguments, value, place)
    if origin is typing.Literal:
        if value not in arguments:
            raise RecordError(f"{place} is {quoted(value)}; expected one of {', '.join(map(repr, arguments))}")
        return value
    if origin is tuple:
        return _convert_tuple(arguments, value, place)
    if origin in (dict, Mapping):
        if not isinstance(value, dict):
            raise RecordError(f"{place} is {shown(value)}; expected an object")
        return {key: _convert(arguments[1], item, f"{place}.{_step(key)}") for key, item in value.items()}
    if dataclasses.is_dataclass(expected):
        return _convert_record(typing.cast(type, expected), value, place)
    return _convert_scalar(expected, value, place)


def _convert_union(choices: tuple[Any, ...], value: Any, place: str) -> Any:
    if value is None and type(None) in choices:
        return None
    faults = []
    for choice in choices:
        if choice is type(None):
            continue
        try:
            return _convert(choice, value, place)
        except RecordError as fault:
            faults.append(str(fault))
    raise RecordError(faults[0])


def _convert_tuple(items: tuple[Any, ...], value: Any, place: str) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise RecordError(f"{place} is {shown(value)}; expected a list")
    if len(items) == 2 and items[1] is Ellipsis:
        return tuple(_convert(items[0], item, f"{place}[{index}]") for index, item in enumerate(value))
    if len(value) != len(items):
        raise RecordError(f"{place} has {len(value)} entries; expected {len(items)}")
    return tuple(_convert(kind, item, f"{place}[{i}]") for i, (kind, item) in enumerate(zip(items, value, strict=True)))


def _convert_record(expected: type, value: Any, place: str) -> Any:
    if not isinstance(value, dict):
        raise RecordError(f"{place} is {shown(value)}; expected an object ({expected.__name__})")
    fields = {field.name: field for field in dataclasses.fields(expected)}
    unknown = sorted(set(value) - set(fields))
    if unknown:
        where = f"{place}.{_step(unknown[0])}"
        raise RecordError(f"{where} is not a field of {expected.__name__}; known: {', '.join(fields)}")
    kinds = _field_types(expected)
    built = {}
    for name, field in fields.items():
        if name in value:
            built[name] = _convert(kinds[name], value[name], f"{place}.{name}")
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise RecordError(f"{place}.{name} is missing")
    try:
        return expected(**built)
    except RecordError:
        raise
    except ValueError as fault:
        raise RecordError(f"{place}: {fault}") from fault


@functools.cache
def _parts(expected: Any) -> tuple[Any, tuple[Any, ...]]:
    """Take a type apart: what it is of, such as ``tuple``, and its arguments."""
    return typing.get_origin(expected), typing.get_args(expected)


@functools.cache
def _field_names(record_type: type) -> tuple[str, ...]:
    return tuple(field.name for field in dataclasses.fields(record_type))


@functools.cache
def _field_types(expected: type) -> dict[str, Any]:
    return typing.get_type_hints(expected)


def _step(key: str) -> str:
    """Write a key as a step of a place: as it is where that can be read."""
    return key if key.isidentifier() and len(key) <= LETTERS_SHOWN else shown(key)


def _convert_scalar(expected: Any, value: Any, place: str) -> Any:
    if expected is bool and isinstance(value, bool):
        return value
    if isinstance(value, int) and abs(value) >= LARGEST:
        raise RecordError(f"{place} is {shown(value)}; expected a number of at most 64 bits")
    if expected is int and not isinstance(value, bool):
        if isinstance(value, int):
            return value
        if isinstance(value, float) and value.is_integer() and abs(value) < LARGEST:
            return int(value)
    if expected is float and isinstance(value, int | float) and not isinstance(value, bool):
        if not math.isfinite(value):
            raise RecordError(f"{place} is {value}; expected a finite number")
        return float(value)
    if expected is str and isinstance(value, str):
        return value
    raise RecordError(f"{place} is {shown(value)}; expected {getattr(expected, '__name__', expected)}")
