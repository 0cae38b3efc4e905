"""Look up a named part: the literal table of its kind first, then what other packages offer under its entry points."""

import difflib
from collections.abc import Mapping
from importlib import metadata
from typing import Any, TypeVar

from autoseg.errors import OptionError

Part = TypeVar("Part")


def find(table: Mapping[str, Part], kind: str, name: str) -> Part:
    """Find a part by name.

    Args:
        table: the literal table of this kind, such as ``networks.NETWORKS``.
        kind: singular, for messages and for the entry-point group ``autoseg.KIND``.
        name: what the plan or the user says.

    Raises:
        OptionError: nothing has that name; the message lists the names there are, the nearest first.
    """
    if name in table:
        return table[name]
    offered = {point.name: point for point in metadata.entry_points(group=f"autoseg.{kind}")}
    if name in offered:
        part: Any = offered[name].load()
        return part
    known = sorted({*table, *offered})
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise OptionError(f"no {kind} is named {name!r}{hint} (known: {', '.join(known)})")
