"""What plans and configurations are told apart by, the same for programs that knew fewer fields."""

from typing import Any

from planners.plan import Configuration, Input, Training
from planners.records import to_json

LATER_FIELDS = {
    "momentum_spans": Training.momentum_spans,
    "scaling": Configuration.scaling,
    "through": Input.through,
}
"""Fields that plans have got after runs had been digested without them, with their defaults."""


def identity_json(value: Any) -> Any:
    """Give the JSON of plans and configurations to be digested, as older programs would have written it.

    ``LATER_FIELDS`` are left out where they say the default: it is what an older plan, which does not name them, is
    read as. So models, plans and outputs of older programs keep their identity; another value is another identity.
    """
    return _without_later(to_json(value))


def _without_later(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_later(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {
        name: _without_later(item)
        for name, item in value.items()
        if name not in LATER_FIELDS or item != LATER_FIELDS[name]
    }
