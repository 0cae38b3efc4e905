"""The inside of a measured process: says that it is ready, and works on every line of its input. Not a script."""

import json
import os
import sys
from collections.abc import Callable
from typing import Any

Work = Callable[[Any], dict[str, float] | None]


def serve(prepare: Callable[[], Work]) -> None:
    """Prepare; then do each job and answer when it is done, with what the work says of itself."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the packages print goes to the log
    work = prepare()
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        said = work(json.loads(line))
        print(f"done {json.dumps(said)}" if said else "done", file=answers, flush=True)
