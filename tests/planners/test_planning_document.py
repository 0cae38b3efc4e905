"""``docs/planning.md`` keeps up with the code: every rule is in it, its worked examples are what is planned."""

import importlib.util
import re
from pathlib import Path
from xml.etree import ElementTree

import planners
from planners import Plan

DOCUMENT = Path(__file__).parents[2] / "docs" / "planning.md"
SCRIPT = importlib.util.spec_from_file_location("renew_planning", DOCUMENT.parent / "renew_planning.py")
assert SCRIPT is not None
assert SCRIPT.loader is not None
renew = importlib.util.module_from_spec(SCRIPT)
SCRIPT.loader.exec_module(renew)


def test_every_rule_is_documented_and_no_other(hippocampus: Plan) -> None:
    package = DOCUMENT.parents[1] / "autoseg"
    changing = (package / "planning.py", *(package / "training").glob("*.py"), *(package / "interop").glob("*.py"))
    files = (*Path(planners.__file__).parent.glob("*.py"), *changing)
    sources = "".join(path.read_text() for path in files)
    rules = set(re.findall(r'(?:rule=|RULE = )"([a-z0-9-]+)"', sources))
    rules |= {reason.rule for reason in hippocampus.reasons}
    table = re.findall(r"^\| `([a-z0-9-]+)` \|", DOCUMENT.read_text(), flags=re.MULTILINE)
    assert len(rules) > 20
    assert set(table) == rules


def test_the_worked_examples_are_true(hippocampus: Plan, prostate: Plan, liver: Plan) -> None:
    """Where this fails, run docs/renew_planning.py and look at what it changed."""
    text = DOCUMENT.read_text()
    for plan in (hippocampus, prostate, liver):
        assert f"```\n{renew.worked_example(plan)}\n```\n" in text


def test_the_pictures_are_true(hippocampus: Plan, prostate: Plan, liver: Plan) -> None:
    pictures = renew.pictures(hippocampus, prostate, liver)
    for name, drawn in pictures.items():
        assert (DOCUMENT.parent / name).read_text() == drawn
        assert f"({name})" in DOCUMENT.read_text()
        assert ElementTree.fromstring(drawn).tag.endswith("svg")
    assert "a patch sees 2 %" in pictures["planning_patches.svg"]
    assert pictures["planning_pooling.svg"].count('class="halved"') == 2 * 6 + 2  # y and x six times, z twice
