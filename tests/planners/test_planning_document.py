"""``docs/planning.md`` keeps up with the code: every rule is in it, its worked examples are what is planned."""

import re
from pathlib import Path

import planners
from planners import Plan
from planners.describe import describe

DOCUMENT = Path(__file__).parents[2] / "docs" / "planning.md"


def test_every_rule_is_documented_and_no_other(hippocampus: Plan) -> None:
    sources = "".join(path.read_text() for path in Path(planners.__file__).parent.glob("*.py"))
    rules = set(re.findall(r'rule="([a-z0-9-]+)"', sources)) | {"out-of-memory"}
    rules |= {reason.rule for reason in hippocampus.reasons}
    table = re.findall(r"^\| `([a-z0-9-]+)` \|", DOCUMENT.read_text(), flags=re.MULTILINE)
    assert len(rules) > 20
    assert sorted(table) == sorted(rules)


def test_the_worked_examples_are_true(hippocampus: Plan, prostate: Plan) -> None:
    text = DOCUMENT.read_text()
    for plan in (hippocampus, prostate):
        headline, volumes, _ = describe(plan).split("\n\n")
        assert headline in text
        assert volumes in text
