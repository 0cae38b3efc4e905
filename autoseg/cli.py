"""The command ``autoseg``: from a command line to one call, and from what came of it to an exit code; no logic.

Exit codes: 0 done, 1 a fault of autoseg, 2 the user's input, 130 interrupted.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from autoseg.command_line import build_parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line and give its exit code."""
    parser = build_parser()
    options = parser.parse_args(arguments)
    if options.verb is None:
        parser.print_help()
        return 0
    from autoseg.errors import AutosegError
    from planners.records import PlanError, RecordError

    try:
        VERBS[options.verb](options)
    except (AutosegError, PlanError, RecordError) as fault:
        if options.debug:
            raise
        kind = type(fault).__name__
        print(f"{kind}: {fault}" if kind != "AutosegError" else f"error: {fault}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        command = " ".join(["autoseg", *(arguments if arguments is not None else sys.argv[1:])])
        print(f"interrupted. Go on with the same command: {command}", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 0
    except OSError as fault:
        if options.debug or fault.filename is None:
            raise
        print(f"{fault.filename}: {(fault.strerror or str(fault)).lower()}. Mend this, or name another place",
              file=sys.stderr)  # fmt: skip
        return 2
    except Exception as fault:
        if options.debug:
            raise
        print(
            f"fault in autoseg: {type(fault).__name__}: {fault}\n"
            "This is not your doing. Run it again with --debug and report the traceback.",
            file=sys.stderr,
        )
        return 1
    return 0


def _source_and_options(options: argparse.Namespace) -> tuple[Any, Any]:
    from autoseg.options import options_from

    skipped = {"verb", "debug", "dataset", "json", "fingerprint", "measure"}
    given = {name: value for name, value in vars(options).items() if name not in skipped and value is not None}
    return options_from(options.dataset, given)


def _demo(options: argparse.Namespace) -> None:
    from autoseg import verbs

    given = {
        name: value for name, value in vars(options).items() if name not in {"verb", "debug"} and value is not None
    }
    verbs.demo(given)


def _run(options: argparse.Namespace) -> None:
    from autoseg import verbs

    verbs.run(*_source_and_options(options))


def _check(options: argparse.Namespace) -> None:
    from autoseg import verbs

    verbs.check_and_print(_source_and_options(options)[0])


def _plan(options: argparse.Namespace) -> None:
    from autoseg import verbs
    from autoseg.options import options_from
    from planners import describe, records

    datasets = options.dataset
    options.dataset = datasets[0] if datasets else None
    if options.fingerprint is not None:
        options.dataset = options.dataset or Path("-")
        plan = verbs.plan_fingerprint(options.fingerprint, _source_and_options(options)[1])
    elif len(datasets) > 1:
        source, chosen = _source_and_options(options)
        others = [options_from(dataset, {"task": source.task})[0] for dataset in datasets[1:]]
        plan = verbs.plan_together([source, *others], chosen)
    else:
        plan = verbs.plan(*_source_and_options(options))
    print(records.dumps(plan) if options.json else describe.describe(plan), end="" if options.json else "\n")
    if options.measure:
        print(verbs.measure(plan), file=sys.stderr if options.json else sys.stdout)


def _train(options: argparse.Namespace) -> None:
    from autoseg import verbs

    verbs.train(options.run, options.configuration, options.fold)


def _predict(options: argparse.Namespace) -> None:
    from autoseg import verbs

    names = ("overwrite", "save_probabilities", "uncertainty", "device")
    verbs.predict(options.model, options.images, options.output, **{name: getattr(options, name) for name in names})


def _export(options: argparse.Namespace) -> None:
    from autoseg import verbs

    verbs.export(options.model, options.out, options.format)


def _evaluate(options: argparse.Namespace) -> None:
    from autoseg import verbs
    from autoseg.options import EvaluateOptions, names_in

    given = {name: getattr(options, name) for name in ("protocol", "against", "out") if getattr(options, name)}
    if options.margin is not None:
        given["margin"] = options.margin
    chosen = EvaluateOptions(task=options.task, metrics=names_in(options.metrics or ""), as_json=options.json, **given)
    verbs.evaluate_and_print(options.predictions, options.labels, chosen)


def _report(options: argparse.Namespace) -> None:
    from autoseg import verbs

    print(verbs.report(options.runs, options.out))


def _challenge(options: argparse.Namespace) -> None:
    from autoseg import challenges, verbs

    if options.step == "list":
        print(challenges.list_text())
    elif options.step == "prepare":
        print(challenges.prepare(options.name, options.raw, options.out))
    elif options.step == "score":
        found = challenges.score(options.name, options.predictions, options.labels)
        verbs.print_comparison(found, as_json=options.json)
    else:
        print(challenges.pack(options.name, options.predictions, options.out, options.images))


def _doctor(options: argparse.Namespace) -> None:
    from autoseg import verbs

    verbs.doctor(options.run, overfit=options.overfit)


VERBS: dict[str, Callable[[argparse.Namespace], None]] = {
    "demo": _demo,
    "run": _run,
    "check": _check,
    "plan": _plan,
    "train": _train,
    "predict": _predict,
    "export": _export,
    "evaluate": _evaluate,
    "report": _report,
    "challenge": _challenge,
    "doctor": _doctor,
}
