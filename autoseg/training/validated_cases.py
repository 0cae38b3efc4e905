"""Validation cases that are predicted and scored already, kept until the last one is: a kill costs the case at hand.

    RUN/folds/CONFIGURATION/fold_K/validated/CASE.json

The files are deleted once the scores of the fold are written. One that was made from other weights, settings, data or
by another version is not used.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path

from autoseg import __version__
from autoseg.errors import RunFolderError
from autoseg.evaluation.overlap import CaseScore
from autoseg.inference.confidence import WatchedCase
from autoseg.inference.out_of_fold import logits_file, prediction_file
from autoseg.networks.checkpoint import weights_digest
from autoseg.preprocessing.store import StoredCase
from autoseg.run_folder import CaseFiles
from autoseg.training.trainer import FoldJob
from planners import records


@dataclass(frozen=True, kw_only=True)
class ValidatedCase:
    """One case: digest of what it was made from, its score, and what the network expects of it."""

    made_from: str
    score: CaseScore
    watched: WatchedCase | None


class ValidatedCases:
    """The cases of a validation that was stopped in the middle."""

    def __init__(self, job: FoldJob, *, keep_logits: bool) -> None:
        self.job, self.keep_logits = job, keep_logits
        self.folder: Path = job.folder.root / "validated"
        shared = [__version__, weights_digest(job.folder.weights_last), records.to_json(job.configuration), keep_logits]
        self._shared = records.digest([*shared, records.to_json(job.plan.labels), records.to_json(job.compute)])

    def find(self, case: StoredCase, files: CaseFiles) -> tuple[CaseScore, WatchedCase | None] | None:
        """Give what was found of a case; None where it is to be validated (again)."""
        try:
            kept = self.job.run.read(ValidatedCase, self._file(case))
        except RunFolderError:
            return None
        made = [prediction_file(self.job.folder, files)]
        made += [logits_file(self.job.folder, case.id)] if self.keep_logits else []
        if kept.made_from != self._made_from(case) or not all(path.exists() for path in made):
            return None
        return kept.score, kept.watched

    def keep(self, case: StoredCase, score: CaseScore, watched: WatchedCase | None) -> None:
        """Keep what was found of a case, after all its files are written."""
        found = ValidatedCase(made_from=self._made_from(case), score=score, watched=watched)
        self.job.run.write(found, self._file(case))

    def remove(self) -> None:
        """Delete all, once the scores of the fold are written."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _file(self, case: StoredCase) -> Path:
        return self.folder / f"{case.id}.json"

    def _made_from(self, case: StoredCase) -> str:
        previous = case.previous and case.previous.record.origin
        return records.digest([self._shared, case.digest, records.to_json(previous)])
