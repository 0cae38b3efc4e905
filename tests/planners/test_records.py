import json
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from planners import Plan
from planners.records import RecordError, digest, dumps, from_json, to_json


@dataclass(frozen=True, kw_only=True)
class Leaf:
    number: int
    share: float = 0.5
    mode: Literal["fast", "slow"] = "fast"


@dataclass(frozen=True, kw_only=True)
class Tree:
    name: str
    leaves: tuple[Leaf, ...] = ()
    pair: tuple[int, int] = (0, 0)
    maybe: Leaf | None = None
    options: dict[str, Any] = field(default_factory=dict)
    on: bool = True

    def __post_init__(self) -> None:
        if self.name == "bad":
            raise ValueError("this name is taken")


FULL = {
    "name": "oak",
    "leaves": [{"number": 1, "share": 0.25, "mode": "slow"}, {"number": 2, "share": 1.0, "mode": "fast"}],
    "pair": [3, 4],
    "maybe": {"number": 9, "share": 0.5, "mode": "fast"},
    "options": {"free": [1, {"a": None}]},
    "on": False,
}


def test_round_trip() -> None:
    tree = from_json(Tree, FULL)
    assert to_json(tree) == FULL
    assert from_json(Tree, json.loads(dumps(tree))) == tree
    assert dumps(tree).endswith("}\n")


def test_defaults_fill_in() -> None:
    assert from_json(Tree, {"name": "ash"}) == Tree(name="ash")


def test_whole_numbers_may_be_written_as_floats_and_the_other_way() -> None:
    leaf = from_json(Leaf, {"number": 3.0, "share": 1})
    assert (leaf.number, type(leaf.number), leaf.share, type(leaf.share)) == (3, int, 1.0, float)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": 3}, r"$.name is 3; expected str"),
        ({"on": 1}, r"$.on is 1; expected bool"),
        ({"on": "yes"}, r'$.on is "yes"; expected bool'),
        ({"pair": [1]}, r"$.pair has 1 entries; expected 2"),
        ({"pair": 7}, r"$.pair is 7; expected a list"),
        ({"pair": [1, 2.5]}, r"$.pair[1] is 2.5; expected int"),
        ({"pair": [1, True]}, r"$.pair[1] is true; expected int"),
        ({"leaves": [{"number": 1}, {}]}, r"$.leaves[1].number is missing"),
        (
            {"leaves": [{"number": 1, "colour": 2}]},
            r"$.leaves[0].colour is not a field of Leaf; known: number, share, mode",
        ),
        (
            {"leaves": [{"number": 1, "mode": "slower"}]},
            r"$.leaves[0].mode is 'slower'; expected one of 'fast', 'slow'",
        ),
        ({"leaves": [{"number": 1, "share": float("inf")}]}, r"$.leaves[0].share is inf; expected a finite number"),
        ({"leaves": [3]}, r"$.leaves[0] is 3; expected an object (Leaf)"),
        ({"maybe": {"number": "x"}}, r'$.maybe.number is "x"; expected int'),
        ({"options": []}, r"$.options is []; expected an object"),
        ({"name": "bad"}, r"$: this name is taken"),
    ],
)
def test_every_fault_names_its_place(change: dict[str, Any], message: str) -> None:
    with pytest.raises(RecordError) as fault:
        from_json(Tree, {**FULL, **change})
    assert str(fault.value) == message


def test_a_missing_key_at_the_top() -> None:
    with pytest.raises(RecordError, match=r"^\$.name is missing$"):
        from_json(Tree, {})


def test_digest_tells_content_not_order() -> None:
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    assert digest(Tree(name="oak")) != digest(Tree(name="ash"))
    assert digest(Tree(name="oak")) == digest(to_json(Tree(name="oak")))


def test_text_keeps_lists_of_numbers_on_one_line(hippocampus: Plan) -> None:
    text = dumps(hippocampus)
    assert '"patch_size": [40, 56, 40],' in text
    assert max(len(line) for line in text.splitlines()) < 400
    assert from_json(Plan, json.loads(text)) == hippocampus
