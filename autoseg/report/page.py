"""Page: one self-contained HTML file about a run, made from its records alone."""

from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoseg.evaluation.selection import candidate_name
from autoseg.report import (
    choice_tables,
    confidence_charts,
    facts,
    loss_tables,
    metric_tables,
    plan_rows,
    score_tables,
    sizes,
)
from autoseg.report.curves import draw_curves
from autoseg.report.manifest import manifest_rows
from autoseg.report.material import Material, gather
from autoseg.report.object_facts import KINDS
from autoseg.report.object_pictures import draw_objects
from autoseg.report.object_section import object_section
from autoseg.report.object_statistics import settings_text, statistics_rows
from autoseg.report.pictures import draw_pictures
from autoseg.report.run_warnings import run_warnings
from autoseg.run_folder import RunFolder, write_atomic

if TYPE_CHECKING:
    import jinja2


def write_report(run: RunFolder, out: Path | None = None) -> Path:
    """Write ``report.html``; what the run folder does not hold (yet) is stated in the page.

    Args:
        run: the run folder; its ``run.json`` names the files of the dataset, which are read for the pictures.
        out: another file than the run's ``report.html``.

    Returns:
        The file.
    """
    place = out or run.report_file
    write_atomic(place, render(gather(run)))
    return place


def render(material: Material) -> str:
    """Lay out the page."""
    choice, record, plan, scores = material.choice, material.record, material.plan, material.scores
    return template("report.html.jinja").render(
        style=file_text("report.css"),
        name=record.name if record is not None else (plan.dataset if plan is not None else material.run.root.name),
        headline=facts.headline(material),
        num_cases=len(record.cases) if record is not None else None,
        mean_dice=score_tables.number(scores.mean_dice)
        if scores is not None and scores.mean_dice is not None
        else None,
        noun="region" if plan is not None and plan.labels.regions else "class",
        chosen=candidate_name(choice.configurations, choice.weights) if choice is not None else None,
        choice=choice,
        scores=score_tables.score_section(material),
        metrics=metric_tables.metric_section(material),
        sizes=sizes.size_section(material),
        confidence=confidence_charts.confidence_section(material),
        finds_objects=material.finds_objects,
        objects=object_section(material),
        kinds=KINDS,
        pictures=draw_objects(material) if material.finds_objects else draw_pictures(material),
        losses=loss_tables.loss_section(material),
        **_choice_parts(material),
        curves=draw_curves(material),
        plan=plan,
        general=(*plan_rows.general_rows(plan), *facts.annotation_rows(material)),
        plan_sections=plan_rows.plan_sections(plan, material.planned),
        changes=plan_rows.changes(plan),
        times=facts.time_rows(material),
        time_budget=facts.time_budget_text(material),
        starts=facts.starts(material),
        step_downs=facts.step_down_rows(material),
        stages=facts.stage_rows(material),
        facts=(*facts.fact_rows(material), *manifest_rows(material)),
        warnings=run_warnings(material),
        missing=material.missing,
        folder=str(material.run.root),
    )


def _choice_parts(material: Material) -> dict[str, Any]:
    choice = material.choice
    return {
        "candidates": choice_tables.candidate_table(material),
        "rules": [choice_tables.rule_text(rule) for rule in choice.postprocessing] if choice is not None else (),
        "changes_by_rules": choice_tables.change_rows(material),
        "trials": choice_tables.trial_rows(material),
        "decode": settings_text(material),
        "statistics": statistics_rows(material),
    }


def template(name: str) -> "jinja2.Template":
    """Give a template of this package; values are escaped, and a name that is not given is an error."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(file_text),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template(name)


def file_text(name: str) -> str:
    """Read a file of this package."""
    return resources.files("autoseg.report").joinpath(name).read_text("utf-8")
