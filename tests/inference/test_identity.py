"""What older programs have digested keeps its digest: fields that plans have got since are not part of it."""

import dataclasses
import json
from pathlib import Path

import pytest

from autoseg import planning
from autoseg.inference.model import Selection, digest_of
from autoseg.networks.checkpoint import weights_digest
from autoseg.options import RunOptions
from autoseg.run_folder import RunFolder
from autoseg.training import initial
from autoseg.training.fold_record import FoldRecord
from planners import records
from planners.fingerprint import Fingerprint
from planners.identity import LATER_FIELDS, identity_json
from planners.plan import Plan

KEPT = json.loads((Path(__file__).parent / "kept" / "plan_without_later_fields.json").read_text())
"""A plan as a program wrote it that did not know the later fields, and the digests that program gave."""
PLAN = records.from_json(Plan, KEPT["plan"])


def with_spans(spans: int) -> Plan:
    (item,) = PLAN.configurations
    changed = dataclasses.replace(item, training=dataclasses.replace(item.training, momentum_spans=spans))
    return dataclasses.replace(PLAN, configurations=(changed,))


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A run of that plan as this program writes it, with one fold whose weights nobody opens."""
    folder = RunFolder(tmp_path / "run")
    folder.write(PLAN, folder.plan_file)
    weights = folder.fold("3d_fullres", 0).weights_last
    weights.parent.mkdir(parents=True)
    weights.write_bytes(b"weights")
    folder.write(FoldRecord(configuration="", split="", epochs=1, finished=True), folder.fold("3d_fullres", 0).record)
    return folder


def model_digest(run: RunFolder, plan: Plan) -> str:
    trained = ((plan.configurations[0], (run.fold("3d_fullres", 0),)),)
    return digest_of(Selection(folds=trained, postprocessing=(), because=""), plan)


def test_plans_and_models_keep_their_digests(run: RunFolder) -> None:
    assert all(f'"{name}"' in run.plan_file.read_text() for name in LATER_FIELDS), "this program writes them"
    plan = run.read(Plan, run.plan_file)
    assert records.digest(identity_json(plan)) == KEPT["digest_of_plan"]
    assert model_digest(run, plan) == KEPT["digest_of_model"]


def test_another_value_is_another_identity(run: RunFolder) -> None:
    assert model_digest(run, with_spans(0)) != KEPT["digest_of_model"]
    assert records.digest(identity_json(with_spans(0))) != KEPT["digest_of_plan"]


def test_what_a_plan_was_made_from_stays_the_same(run: RunFolder) -> None:
    """As the older program digested it: ``--plan``, ``--like`` and ``--init`` are no reason to plan anew."""
    fingerprint = Fingerprint(
        dataset="kept",
        channels=PLAN.channels,
        labels=PLAN.labels,
        num_cases=1,
        spacings_mm=((1.0,) * 3,),
        shapes=((8,) * 3,),
    )
    facts = records.to_json(fingerprint)
    for later in ("image_percentiles", *planning.LATER_FACTS):
        del facts[later]
    options = RunOptions(budget_bytes=10**9, device="cpu")
    before = [facts, planning.memory_budget(options), options.planner, []]

    named = dataclasses.replace(options, plan=run.plan_file)
    assert planning._source(fingerprint, named, None) == records.digest([*before, KEPT["plan"]])
    like = dataclasses.replace(options, like=run.root)
    assert planning._source(fingerprint, like, None) == records.digest([*before, None, {"like": KEPT["plan"]}])

    weights = {"3d_fullres": weights_digest(run.fold("3d_fullres", 0).weights_last)}
    assert initial.open_model(run.root).identity == records.digest([KEPT["plan"], weights])
