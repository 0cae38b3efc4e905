"""The command ``autoseg``: from a command line to one call, and from what came of it to an exit code; no logic.

Exit codes: 0 done, 1 a fault of autoseg, 2 the user's input, 130 interrupted (Ctrl-C), 143 told to end (SIGTERM).
"""

import argparse
import shlex
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
    from autoseg.stopping import Stopped, stoppable
    from planners.records import PlanError, RecordError

    go_on = "Go on with the same command: " + shlex.join(["autoseg", *(arguments or sys.argv[1:])])
    try:
        with stoppable(f"told to end. {go_on}"):
            VERBS[options.verb](options)
    except (AutosegError, PlanError, RecordError) as fault:
        if options.debug:
            raise
        kind = type(fault).__name__
        print(f"{kind}: {fault}" if kind != "AutosegError" else f"error: {fault}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        code = stop.exit_code if isinstance(stop, Stopped) else Stopped().exit_code
        print(f"{'interrupted' if code == Stopped().exit_code else 'told to end'}. {go_on}", file=sys.stderr)
        return code
    except BrokenPipeError:
        return 0
    except Exception as fault:
        if options.debug:
            raise
        text, code = _worded(fault)
        print(text, file=sys.stderr)
        return code
    return 0


def _worded(fault: Exception) -> tuple[str, int]:
    """Word what no part of the program has worded, with the exit code: want of memory or disk, files, bugs."""
    from autoseg import room

    text = room.told(fault)
    if text is not None:
        return f"RoomError: {text}{_notes(fault)}", 2
    if isinstance(fault, OSError) and fault.filename is not None:
        found = (fault.strerror or str(fault)).lower()
        return f"{fault.filename}: {found}. Mend this, or name another place", 2
    return _fault_text(fault), 1


def _fault_text(fault: Exception) -> str:
    """Word an exception that nobody foresaw, with the place of its traceback."""
    from autoseg.log import place_of

    place = place_of(fault)
    told = "Run it again with --debug and report the traceback"
    if place is not None:
        told = f"The traceback is in {place}: report it with the lines around it (or run it again with --debug)"
    return (
        f"fault in autoseg: {type(fault).__name__}: {fault}{_notes(fault)}\n"
        f"This is not your doing: it is a fault of autoseg. {told}. What was finished is kept"
    )


def _notes(fault: Exception) -> str:
    """Give what was noted on an exception on its way: which case it was."""
    return "".join(f" ({note})" for note in getattr(fault, "__notes__", ()))


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

    verbs.train(options.run, options.configuration, options.fold, wait=options.wait)


def _predict(options: argparse.Namespace) -> None:
    from autoseg import verbs

    names = ("overwrite", "save_probabilities", "uncertainty", "device", "speed", "max_ram", "max_vram")
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
