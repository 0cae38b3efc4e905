"""The doctor: what this machine is, what a run folder holds, and what is wrong with either."""

import sys
from pathlib import Path

from autoseg.doctor.finding import findings_text
from autoseg.doctor.machine import examine_machine
from autoseg.doctor.run import examine_run
from autoseg.errors import RunFolderError
from autoseg.run_folder import RunFolder


def examine(run_folder: Path | None, *, overfit: bool) -> bool:
    """Print what the doctor finds; tell whether all is well.

    Args:
        run_folder: look at this run; None: at the machine.
        overfit: train on two cases of the run until they are learnt by heart.

    Raises:
        RunFolderError: it is no run folder, or holds no preprocessed cases.
    """
    if run_folder is None:
        if overfit:
            raise RunFolderError("--overfit needs a run: autoseg doctor RUN --overfit")
        found = examine_machine()
    else:
        found = examine_run(RunFolder(run_folder))
    print(findings_text(found))
    well = not any(item.is_bad for item in found)
    if overfit and run_folder is not None:
        from autoseg.training.overfit import overfit as learn

        result = learn(RunFolder(run_folder))
        sys.stderr.flush()
        print(result.text())
        well = well and result.is_learnt
    return well
