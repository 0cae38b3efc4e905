"""Page: one self-contained HTML file about a run, made from its records alone."""

from importlib import resources
from pathlib import Path

from autoseg.evaluation.selection import candidate_name
from autoseg.report import facts, plan_rows, score_tables
from autoseg.report.curves import draw_curves
from autoseg.report.material import Material, gather
from autoseg.report.pictures import draw_pictures
from autoseg.run_folder import RunFolder, write_atomic


def write_report(run: RunFolder) -> Path:
    """Write ``report.html``; what the run folder does not hold (yet) is stated in the page.

    Args:
        run: the run folder; its ``run.json`` names the files of the dataset, which are read for the pictures.

    Returns:
        The file.
    """
    write_atomic(run.report_file, render(gather(run)))
    return run.report_file


def render(material: Material) -> str:
    """Lay out the page."""
    import jinja2

    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    files = resources.files("autoseg.report")
    template = environment.from_string(files.joinpath("report.html.jinja").read_text("utf-8"))
    choice, record, plan, scores = material.choice, material.record, material.plan, material.scores
    return template.render(
        style=files.joinpath("report.css").read_text("utf-8"),
        name=record.name if record is not None else (plan.dataset if plan is not None else material.run.root.name),
        headline=facts.headline(material),
        num_cases=len(record.cases) if record is not None else None,
        mean_dice=score_tables.number(scores.mean_dice)
        if scores is not None and scores.mean_dice is not None
        else None,
        scored=material.scored,
        noun="region" if plan is not None and plan.labels.regions else "class",
        chosen=candidate_name(choice.configurations) if choice is not None else None,
        choice=choice,
        scores=score_tables.score_section(material),
        pictures=draw_pictures(material),
        candidates=score_tables.candidate_bars(material),
        structures=choice.structures if choice is not None else (),
        trials=score_tables.trial_rows(material),
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
        facts=facts.fact_rows(material),
        events=facts.event_rows(material),
        warnings=record.warnings if record is not None else (),
        missing=material.missing,
        folder=str(material.run.root),
    )
