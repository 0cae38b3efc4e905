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


class RecordError(ValueError):
    """A JSON value that does not fit the record it should become."""


class PlanError(ValueError):
    """No possible plan, or a plan that cannot be carried out. The message says what was found and what to do."""


def to_json(value: Any) -> Any:
    """Turn a record into plain JSON values (dicts, lists, numbers, strings)."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_json(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(item) for item in value]
    return value


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
    flat = json.dumps(value, ensure_ascii=False)
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
    origin, arguments = typing.get_origin(expected), typing.get_args(expected)
    if expected is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        return _convert_union(arguments, value, place)
    if origin is typing.Literal:
        if value not in arguments:
            raise RecordError(f"{place} is {value!r}; expected one of {', '.join(map(repr, arguments))}")
        return value
    if origin is tuple:
        return _convert_tuple(arguments, value, place)
    if origin in (dict, Mapping):
        if not isinstance(value, dict):
            raise RecordError(f"{place} is {_name(value)}; expected an object")
        return {key: _convert(arguments[1], item, f"{place}.{key}") for key, item in value.items()}
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
        raise RecordError(f"{place} is {_name(value)}; expected a list")
    if len(items) == 2 and items[1] is Ellipsis:
        return tuple(_convert(items[0], item, f"{place}[{index}]") for index, item in enumerate(value))
    if len(value) != len(items):
        raise RecordError(f"{place} has {len(value)} entries; expected {len(items)}")
    return tuple(_convert(kind, item, f"{place}[{i}]") for i, (kind, item) in enumerate(zip(items, value, strict=True)))


def _convert_record(expected: type, value: Any, place: str) -> Any:
    if not isinstance(value, dict):
        raise RecordError(f"{place} is {_name(value)}; expected an object ({expected.__name__})")
    fields = {field.name: field for field in dataclasses.fields(expected)}
    unknown = sorted(set(value) - set(fields))
    if unknown:
        raise RecordError(f"{place}.{unknown[0]} is not a field of {expected.__name__}; known: {', '.join(fields)}")
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
def _field_types(expected: type) -> dict[str, Any]:
    return typing.get_type_hints(expected)


def _convert_scalar(expected: Any, value: Any, place: str) -> Any:
    if expected is bool and isinstance(value, bool):
        return value
    if expected is int and not isinstance(value, bool):
        if isinstance(value, int):
            return value
        if isinstance(value, float) and value.is_integer():
            return int(value)
    if expected is float and isinstance(value, int | float) and not isinstance(value, bool):
        if not math.isfinite(value):
            raise RecordError(f"{place} is {value}; expected a finite number")
        return float(value)
    if expected is str and isinstance(value, str):
        return value
    raise RecordError(f"{place} is {_name(value)}; expected {getattr(expected, '__name__', expected)}")


def _name(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 40 else text[:37] + "..."
