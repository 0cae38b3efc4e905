"""The house keeps its rules: who imports whom, sizes, names, and which commands start without torch."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted(path for package in ("autoseg", "planners") for path in (ROOT / package).rglob("*.py"))

ROWS = {
    "cli": 13,
    "verbs": 12,
    "pipeline": 11,
    "doctor": 11,
    "command_line": 11,
    "training": 10,
    "challenges": 10,
    "inference": 9,
    "report": 9,
    "interop": 8,
    "targets": 7,
    "planning": 7,
    "provenance": 7,
    "preprocessing": 6,
    "networks": 6,
    "evaluation": 6,
    "jobs": 6,
    "options": 6,
    "data": 5,
    "compute": 5,
    "run_folder": 4,
    "claims": 4,
    "determinism": 4,
    "native": 4,
    "extensions": 3,
    "log": 3,
    "locks": 3,
    "stopping": 3,
    "room": 3,
    "progress": 2,
    "errors": 2,
    "planners": 1,
}
HEAVY = {
    "torch": {"training", "inference", "interop", "targets", "networks", "compute", "determinism", "doctor"},
    "scipy": {"training", "targets", "preprocessing", "networks", "evaluation", "data"},
    "SimpleITK": {"preprocessing", "data", "inference"},
    "matplotlib": set(),
    "jinja2": {"report"},
    "PIL": {"data", "report"},
    "batchgenerators": {"training"},
    "acvl_utils": {"training", "inference"},
    "skimage": {"evaluation"},  # skeleton.py alone; see the test below
    "sklearn": set(),
    "batchgeneratorsv2": set(),
    "nnunetv2": set(),
}
FORBIDDEN_NAMES = {"utils", "util", "helpers", "helper", "common", "misc", "core", "engine", "manager"}
LINES_LIMIT, FUNCTION_LIMIT = 400, 60


def unit_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return "planners" if parts[0] == "planners" else (parts[1] if len(parts) > 1 else "__init__")


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (
                [f"{node.module}.{a.name}" for a in node.names] if node.module == "autoseg" else [node.module or ""]
            )


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_down(path: Path) -> None:
    unit = unit_of(path)
    if unit in ("__init__", "__main__"):
        return
    assert unit in ROWS, f"{path} belongs to no row of the table"
    for name in imports(path):
        parts = name.split(".")
        if parts[0] == "planners" and unit != "planners":
            continue
        if parts[0] in ("autoseg", "planners"):
            other = "planners" if parts[0] == "planners" else parts[1]
            if name == "autoseg.__version__":
                continue
            assert other == unit or ROWS[other] < ROWS[unit], f"{path} ({unit}) imports {name}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_heavy_packages_stay_where_they_belong(path: Path) -> None:
    unit = unit_of(path)
    for name in imports(path):
        top = name.split(".")[0]
        if unit == "planners":
            assert top in sys.stdlib_module_names or top in ("numpy", "planners"), f"{path} imports {name}"
        assert unit in HEAVY.get(top, {unit}), f"{path} ({unit}) imports {name}"


def test_scikit_image_is_needed_by_one_file_alone() -> None:
    assert [path.name for path in SOURCES if any(name.startswith("skimage") for name in imports(path))] == [
        "skeleton.py"
    ]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_sizes_and_names(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= LINES_LIMIT, f"{path} has {len(text.splitlines())} lines"
    assert not FORBIDDEN_NAMES & set(path.relative_to(ROOT).with_suffix("").parts), f"{path}: a name that says nothing"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or 0) - node.lineno + 1
            assert length <= FUNCTION_LIMIT, f"{path}: {node.name} has {length} lines"


def test_training_step_is_short() -> None:
    text = (ROOT / "autoseg" / "training" / "trainer.py").read_text()
    start, end = text.index("-- step\n"), text.index("    # " + "-" * 114)
    assert 0 < text[start:end].count("\n") <= 42


def run_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize(
    "module", ["autoseg", "autoseg.cli", "autoseg.verbs", "autoseg.pipeline", "autoseg.report", "autoseg.evaluation"]
)
def test_starts_without_torch(module: str) -> None:
    code = f"import {module}, sys; print(sorted(m for m in ('torch', 'matplotlib.pyplot', 'rich') if m in sys.modules))"
    assert run_python(code) == "[]"


def test_importing_prints_nothing() -> None:
    assert run_python("import autoseg, planners") == ""
