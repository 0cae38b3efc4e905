"""Page: whole, self-contained, honest about what is missing, and made without torch."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

import autoseg.report
from autoseg.evaluation.confidence import Bin, CaseConfidence, Confidence
from autoseg.evaluation.dice_calibration import calibrate
from autoseg.evaluation.metric_records import MetricTable
from autoseg.evaluation.metrics import METRICS
from autoseg.evaluation.overlap import CaseScore, collect
from autoseg.report import write_report
from autoseg.report.material import gather
from autoseg.report.page import render
from autoseg.run_folder import RunFolder
from planners.labels import LabelClass, Labels, Region

VOID = {"meta", "link", "input", "br", "img"}
LIMIT_BYTES = 3_000_000


class Page(HTMLParser):
    """Reads a page, checks that its elements nest, and keeps its text and attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.texts: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attributes]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attributes]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.texts.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.texts))


def page_of(run: RunFolder) -> Page:
    path = write_report(run)
    assert path == run.report_file
    assert path.stat().st_size <= LIMIT_BYTES
    return Page(path.read_text())


def test_page_of_a_finished_run_has_everything(make_run: Callable[..., RunFolder]) -> None:
    run = make_run()
    page = page_of(run)
    for part in (
        "Hippocampus <demo>",
        "10 cases, 1 channel (MRI), 2 classes to find.",
        "2 folds of 3d_fullres",
        "anterior",
        "All that was compared, before postprocessing",
        "2d + 3d_fullres chosen",
        "Then: of all foreground, only the largest component is kept",
        "Before and after postprocessing",
        "Each rule that was tried",
        "95 % interval 0.",
        "With 10 cases such intervals are too narrow",
        METRICS["nsd"].title,
        "HD95 mm, lower is better",
        "size in the label, ml",
        "rank correlation",
        "The Dice of a case, foretold without its label",
        "with a mean absolute error of 0.",
        "all structures ECE 0.",
        "Three planes meet where most is wrong at once",
        "coronal , slice",
        "The highest loss",
        "second lowest loss",
        "against 3d_fullres",
        "patch size",
        "How the cases are spread",
        "The lowest cases",
        "second worst",
        "third highest loss",
        "0.104 s",
        "first start 1 August 2026, 09:30",
        "torch 2.13.0",
        "image is constant in 2 of 14 slices",
        "training steps were skipped, because their loss was not finite: case_001; 3d_fullres fold 0",
        "1 h 27 min",
    ):
        assert part in page.text, part
    assert "Not in this page" not in page.text
    for word in ("nan", "None", "inf ", "Undefined"):
        assert not re.search(rf"\b{word}\b", page.text), word


def test_page_tells_of_what_only_some_runs_have(make_run: Callable[..., RunFolder]) -> None:
    run = make_run(
        num_cases=4,
        num_epochs=20,
        annealed_from=14,
        annotated={"case_001": (0, 1)},
        options={"time_budget_s": 600.0},
        fold_record={"step_down": "batch size 4 → 2", "validation_s": 5.0},
    )
    parts = [{"name": f"encoder.{stage}.0", "status": "matched", "because": ""} for stage in range(3)]
    parts.append({"name": "heads.0", "status": "adapted", "because": "posterior is new"})
    run.log("initial weights", configuration="3d_fullres", source="runs/brain fold 0", rows=parts)
    page = page_of(run)
    for part in (
        "the final anneal began at epoch 15 (fold 0), epoch 15 (fold 1)",
        "final anneal begins",
        "3d_fullres started from the trained weights of runs/brain fold 0 : of its parts 3 matched, 1 adapted, 0 new.",
        "heads.0 adapted posterior is new",
        "anterior in 4, posterior in 3 1 of 4 cases partly annotated",
        "3d_fullres, fold 1 the memory ran out, and the training went on with less: batch size 4 → 2",
        "10 min 0 s were asked for; training and validation took",
    ):
        assert part in page.text, part
    assert len([value for _, name, value in page.attributes if name == "class" and value == "mark"]) == 2 * (2 * 2 + 4)


def test_page_is_self_contained_and_accessible(make_run: Callable[..., RunFolder]) -> None:
    page = page_of(make_run(num_cases=5))
    assert not [item for item in page.attributes if item[0] in ("script", "iframe", "object")]
    for _, name, value in page.attributes:
        if name in ("href", "src"):
            assert value.startswith(("#", "data:")), value
        assert not name.startswith("on")
    style = Path(autoseg.report.__file__).with_name("report.css").read_text()
    assert "url(" not in style
    assert "@import" not in style
    assert "prefers-color-scheme: dark" in style
    drawings = [value for tag, name, value in page.attributes if tag == "svg" and name == "role"]
    labels = [value for tag, name, value in page.attributes if tag == "svg" and name == "aria-label"]
    assert len(drawings) == len(labels) > 10
    assert all(labels)
    anchors = {value[1:] for tag, name, value in page.attributes if tag == "a" and name == "href"}
    assert anchors <= {value for _, name, value in page.attributes if name == "id"}


def test_colours_can_be_told_from_the_page() -> None:
    """Text has at least 4.5 : 1, lines and dots 3 : 1 against what they stand on, light and dark (WCAG 2.2)."""
    style = Path(autoseg.report.__file__).with_name("report.css").read_text()
    themes = [
        dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", block)) for block in re.findall(r":root \{(.*?)\}", style, re.S)
    ]
    assert len(themes) == 2
    for colours in themes:
        for ground in ("paper", "card"):
            for name in ("ink", "soft", "accent"):
                assert contrast(colours[name], colours[ground]) >= 4.5, (name, ground)
            for index in range(7):
                assert contrast(colours[f"c{index}"], colours[ground]) >= 3, (index, ground)
        assert contrast(colours["accent"], colours["accent-soft"]) >= 4.5


def contrast(first: str, second: str) -> float:
    low, high = sorted(luminance(colour) for colour in (first, second))
    return (high + 0.05) / (low + 0.05)


def luminance(colour: str) -> float:
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    red, green, blue = (value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_page_of_an_empty_folder_states_what_is_missing(tmp_path: Path) -> None:
    page = page_of(RunFolder(tmp_path / "new"))
    for part in (
        "No case has been scored yet",
        "There is no plan yet",
        "run.json is not there",
        "folds/ holds no trained fold",
    ):
        assert part in page.text, part


@pytest.mark.parametrize(
    "gone",
    [
        "run.json", "fingerprint.json", "plan.json", "choice.json", "scores.json", "metrics.json", "confidence.json",
        "folds", "log.jsonl",
    ],
)  # fmt: skip
def test_page_does_without_any_one_piece(make_run: Callable[..., RunFolder], gone: str) -> None:
    run = make_run(num_cases=4, num_epochs=3)
    path = run.root / gone
    path.rename(run.root / "away")
    page = page_of(run)
    if gone not in ("scores.json", "log.jsonl"):
        assert f"{gone.removesuffix('.json')}" in page.text.partition("Not in this page")[2]
    if gone == "scores.json":
        assert "before postprocessing" in page.text


def test_a_run_without_the_newer_records_says_so(make_run: Callable[..., RunFolder]) -> None:
    run = make_run(num_cases=4, num_epochs=3, measured=False)
    choice = json.loads(run.choice_file.read_text())
    for field in ("weights", "interval", "mean_before", "dice_before"):
        del choice[field]
    for candidate in choice["candidates"]:
        del candidate["weights"], candidate["interval"]
    run.choice_file.write_text(json.dumps(choice))
    page = page_of(run)
    for part in (
        "Not measured: there is no metrics.json",
        "Not known: there is no confidence.json",
        "no fold holds a case_losses.json",
        "Before and after postprocessing Dice of before after change mean 0.",
        "2d + 3d_fullres chosen",
    ):
        assert part in page.text, part


def test_damaged_records_are_stated(make_run: Callable[..., RunFolder]) -> None:
    run = make_run(num_cases=4, num_epochs=3)
    run.choice_file.write_text('{"configurations": ["2d"]}')
    run.plan_file.write_text("{")
    run.metrics_file.write_text("{}")
    run.confidence_file.write_text("[]")
    run.fold("2d", 0).case_losses.write_text("{")
    progress = run.fold("2d", 0).progress
    progress.write_text(progress.read_text() + '{"epoch": 3, "train_lo')
    page = page_of(run)
    notes = page.text.partition("Not in this page")[2]
    assert "$.folds is missing" in notes
    assert "plan.json is not JSON" in notes
    assert "metrics.json: $." in notes
    assert "confidence.json: $" in notes
    assert "fold_0/case_losses.json is not JSON" in notes
    assert "3 epochs" in page.text


def test_regions_and_absent_classes_are_named(make_run: Callable[..., RunFolder]) -> None:
    classes = tuple(LabelClass(name=name, value=i) for i, name in enumerate(("background", "core", "rim", "cyst")))
    regions = (Region(name="whole", values=(1, 2, 3)), Region(name="cyst only", values=(3,)))
    labels = Labels(classes=classes, regions=regions)
    page = page_of(make_run(num_cases=4, num_epochs=3, labels=labels))
    assert "Dice by region" in page.text
    assert "cyst only" in page.text
    assert "absent" in page.text
    assert "class 3" in page.text  # the curves have one line per class here, the regions are two


def test_many_classes_fit_the_page(make_run: Callable[..., RunFolder]) -> None:
    labels = Labels(classes=tuple(LabelClass(name=f"organ {value}", value=value) for value in range(105)))
    page = page_of(make_run(num_cases=4, num_epochs=3, num_folds=1, configurations=("2d",), labels=labels))
    assert "and 98 more in the table below" in page.text


def test_page_of_many_cases_and_classes_stays_light(
    make_run: Callable[..., RunFolder], metrics_of: Callable[..., MetricTable], bins_of: Callable[..., tuple[Bin, ...]]
) -> None:
    """The whole page of 200 cases and 60 classes has at most a megabyte beside its pictures (three more at most)."""
    run = make_run(num_cases=6, num_epochs=3, num_folds=1)
    small = gather(run)
    rng = np.random.default_rng(0)
    structures = tuple(f"organ {index}" for index in range(60))
    rows = [many_scores(f"case_{index:03d}", rng.uniform(0.3, 1, 60), rng) for index in range(200)]
    scores = collect(rows, structures)
    cases = [
        CaseConfidence(
            case=row.case, fold=0, expected_dice=tuple(0.5 + 0.4 * float(value or 0) for value in row.dice),
            dice=row.dice, mean_dice=row.mean_dice,
        )
        for row in rows
    ]  # fmt: skip
    calibrations, predicted = calibrate(structures, cases)
    confidence = Confidence(
        structures=structures,
        configurations=("2d",),
        cases=predicted,
        bins=tuple(bins_of(0.8) for _ in structures),
        calibrations=calibrations,
    )
    material = replace(small, scores=scores, metrics=metrics_of(scores), confidence=confidence, fingerprint=None)
    text = render(material)
    Page(text)
    assert len(text.encode()) < 1_000_000
    assert "The lists show the 12 worst of 60" in text
    assert "51 more are in scores.json" in text


def many_scores(case: str, dice: np.ndarray, rng: np.random.Generator) -> CaseScore:
    sizes = tuple(int(value) for value in rng.integers(10, 90_000, len(dice)))
    values = tuple(float(value) for value in dice)
    return CaseScore(
        case=case, dice=values, iou=values, mean_dice=float(dice.mean()), tp=sizes, fp=sizes, fn=sizes, tn=sizes,
        num_predicted=sizes, num_labelled=sizes,
    )  # fmt: skip


@pytest.mark.parametrize("maker", ["make_run", "make_object_run"])
def test_page_is_made_without_torch_or_pyplot(maker: str, request: pytest.FixtureRequest) -> None:
    run = request.getfixturevalue(maker)(num_cases=3)
    code = (
        "import sys; from pathlib import Path; from autoseg.report import write_report; "
        "from autoseg.run_folder import RunFolder; "
        "before = {'jinja2', 'SimpleITK', 'scipy', 'PIL'} & set(sys.modules); "
        f"write_report(RunFolder(Path({str(run.root)!r}))); print(sorted(before), "
        "[name for name in ('torch', 'matplotlib') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2]
    )
    assert done.stdout.strip() == "[] []"
