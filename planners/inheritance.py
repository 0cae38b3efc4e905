"""Configurations that inherit: ``{"name": "3d_large", "inherits": "3d_fullres", "batch_size": 4}`` in ``plan.json``.

Only a plan that a person writes inherits. It is resolved while it is read, so every ``Plan`` is complete and what the
program writes holds each configuration in full; a reason says where it came from.
"""

import difflib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from planners.plan import Reason
from planners.records import RecordError, to_json

INHERITS = "inherits"
"""Key under which a configuration names the one it takes all it does not say itself from."""


def resolve(value: Any, place: str = "$") -> Any:
    """Write out every configuration that inherits.

    A configuration takes from its parent what it does not say itself: records are merged entry by entry, lists and
    single values are replaced. What follows from a changed value follows here too: the output's size from the patch,
    the inputs from ``previous``. Parents may inherit themselves and may stand anywhere in the list.

    Args:
        value: JSON values of a plan; anything else is given back as it is, for the record's own check to refuse.
        place: where in the file it stands.

    Returns:
        The same without ``inherits``, and with a reason for each configuration that had it.

    Raises:
        RecordError: an unknown parent, a circle, or a configuration without a name of its own.
    """
    configurations = value.get("configurations") if isinstance(value, dict) else None
    if not isinstance(configurations, list) or not any(_inherits(item) for item in configurations):
        return value
    places = [f"{place}.configurations[{index}]" for index in range(len(configurations))]
    by_name: dict[str, Any] = {}
    for item, where in zip(configurations, places, strict=True):
        if _inherits(item) and not isinstance(item.get("name"), str):
            raise RecordError(f"{where}.name is missing; a configuration that inherits needs a name of its own")
        if isinstance(item, dict) and isinstance(item.get("name"), str):
            by_name.setdefault(item["name"], item)
    chains = [_chain(item, by_name, where) for item, where in zip(configurations, places, strict=True)]
    whole = {**value, "configurations": [_merge_chain(chain, value) for chain in chains]}
    reasons = value.get("reasons", [])
    if isinstance(reasons, list):
        whole["reasons"] = list(reasons)
        for chain in sorted((chain for chain in chains if len(chain) > 1), key=len):
            parent = _merge_chain(chain[:-1], value)
            whole["reasons"] += _reasons(chain[-1], parent, whole["reasons"])
    return whole


def _inherits(item: Any) -> bool:
    return isinstance(item, dict) and INHERITS in item


def _chain(item: Any, by_name: Mapping[str, Any], place: str) -> list[Any]:
    """Give a configuration's ancestors, the one that is complete first, and the configuration last."""
    chain = [item]
    while _inherits(chain[0]):
        wanted = chain[0][INHERITS]
        if not isinstance(wanted, str) or wanted not in by_name:
            near = difflib.get_close_matches(str(wanted), by_name, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            possible = ", ".join(name for name in by_name if name != item["name"])
            raise RecordError(f"{place}.{INHERITS} is {json.dumps(wanted)}{hint} (possible: {possible})")
        if any(by_name[wanted] is former for former in chain):
            names = [former["name"] for former in reversed(chain)]
            circle = " → ".join([*names[names.index(wanted) :], wanted])
            raise RecordError(f"{place}.{INHERITS} leads in a circle: {circle}. One of them must be written in full")
        chain.insert(0, by_name[wanted])
    return chain


def _merge_chain(chain: Sequence[Any], plan: Mapping[str, Any]) -> Any:
    merged = chain[0]
    for item in chain[1:]:
        said = {key: entry for key, entry in item.items() if key != INHERITS}
        merged = _merge(merged, {**_follow(said, merged, plan), **said})
    return merged


def _merge(parent: Any, child: Any) -> Any:
    if not (isinstance(parent, dict) and isinstance(child, dict)):
        return child
    merged = dict(parent)
    for key, entry in child.items():
        merged[key] = _merge(parent[key], entry) if key in parent else entry
    return merged


def _follow(said: Mapping[str, Any], parent: Any, plan: Mapping[str, Any]) -> dict[str, Any]:
    """Give the values that follow from what a configuration says differently."""
    follows: dict[str, Any] = {}
    if "patch_size" in said and parent.get("output_size") == parent.get("patch_size"):
        follows["output_size"] = said["patch_size"]
    if "previous" in said and isinstance(parent.get("inputs"), list):
        follows["inputs"] = follow_previous(parent["inputs"], said["previous"], plan)
    return follows


def follow_previous(inputs: Sequence[Any], previous: Any, plan: Mapping[str, Any]) -> list[Any]:
    """Give the inputs, as JSON, of a configuration whose previous one is changed (None: it has none any more).

    Args:
        inputs: those it had.
        previous: name of the new previous configuration.
        plan: JSON of the plan, for the number of its classes.
    """
    kept = [item for item in inputs if not (isinstance(item, dict) and item.get("kind") == "previous")]
    if previous is None:
        return kept
    labels = plan.get("labels")
    classes = labels.get("classes", []) if isinstance(labels, dict) else []
    return [*kept, {"kind": "previous", "name": previous, "channels": len(classes) - 1}]


def _reasons(item: Mapping[str, Any], parent: Any, reasons: Sequence[Any]) -> list[Any]:
    """Say that a configuration inherits; take over the reasons of what it inherits, give those of what it changes."""
    name, parent_name = item["name"], item[INHERITS]
    said = {key: entry for key, entry in item.items() if key not in ("name", INHERITS)}
    changed = _leaves(said)
    but = f", but for {', '.join('.'.join(path) for path in changed)}" if changed else ""
    made = [to_json(Reason(about="configurations", rule="inherits", because=f"{name} is {parent_name}{but}"))]
    paths = [".".join([parent_name, *path]) for path in changed]
    for reason in reasons:
        about = reason.get("about", "") if isinstance(reason, dict) else ""
        overruled = any(about == path or about.startswith(f"{path}.") for path in paths)
        if about.startswith(f"{parent_name}.") and not overruled:
            made.append({**reason, "about": name + about.removeprefix(parent_name)})
    for path in changed:
        former = json.dumps(_look_up(parent, path))
        because = f"set by the user ({former} in {parent_name})"
        made.append(to_json(Reason(about=".".join([name, *path]), rule="user", because=because)))
    return made


def _leaves(value: Mapping[str, Any], *path: str) -> list[tuple[str, ...]]:
    """List the paths of the single values and lists in nested records."""
    found: list[tuple[str, ...]] = []
    for key, entry in value.items():
        found += _leaves(entry, *path, key) if isinstance(entry, dict) and entry else [(*path, key)]
    return found


def _look_up(value: Any, path: Sequence[str]) -> Any:
    for step in path:
        value = value.get(step) if isinstance(value, dict) else None
    return value
