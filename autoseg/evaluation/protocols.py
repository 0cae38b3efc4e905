"""Protocols: the rules by which predictions are measured, looked up by name and fitted to a dataset's labels."""

from autoseg.errors import OptionError
from autoseg.evaluation.overlap import Structure, structures_of
from autoseg.evaluation.protocol_records import Fallback, Protocol, ProtocolStructure
from autoseg.evaluation.protocol_table import PROTOCOLS
from autoseg.extensions import find
from planners.labels import Labels

__all__ = ["PROTOCOLS", "Fallback", "Protocol", "ProtocolStructure", "find_protocol", "structures_for"]


def find_protocol(name: str | None) -> Protocol:
    """Find a protocol; None is ``default``.

    Raises:
        OptionError: none has that name; the nearest is suggested.
    """
    return find(PROTOCOLS, "protocol", name or "default")


def structures_for(protocol: Protocol, labels: Labels) -> tuple[tuple[Structure, ...], tuple[str, ...]]:
    """Say what a protocol measures in a dataset.

    Args:
        protocol: one without structures of its own measures the dataset's regions or classes.
        labels: the dataset's.

    Returns:
        The structures by inner class indices, and what the user should know: structures of which no value is declared.

    Raises:
        OptionError: no label value that the protocol names is declared.
    """
    if not protocol.structures:
        return structures_of(labels), ()
    index_of = {item.value: index for index, item in enumerate(labels.classes)}
    found, absent = [], []
    for item in protocol.structures:
        classes = tuple(sorted(index_of[value] for value in item.values if value in index_of))
        if classes:
            found.append(Structure(name=item.name, classes=classes))
        else:
            absent.append(f"{item.name} ({', '.join(map(str, item.values))})")
    declared = ", ".join(f"{item.name} {item.value}" for item in labels.classes)
    if not found:
        raise OptionError(
            f"protocol {protocol.name} measures {'; '.join(absent)}; declared are {declared}. "
            "Choose a protocol that fits the labels, or --protocol default"
        )
    if absent:
        return tuple(found), (
            f"protocol {protocol.name} also measures {'; '.join(absent)}, which the labels do not declare: left out",
        )
    return tuple(found), ()
