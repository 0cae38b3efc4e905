"""All warnings of a run stand on its page: the dataset's as last checked, the others as the log has them."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

from autoseg import log
from autoseg.report import write_report
from autoseg.report.manifest import manifest_rows, weights_checksum
from autoseg.report.material import gather
from autoseg.report.run_warnings import MOST, run_warnings
from autoseg.run_folder import RunFolder


def test_every_kind_of_warning_is_told_once(make_run: Callable[..., RunFolder]) -> None:
    run = make_run(num_cases=4, num_epochs=3)
    run.log_file.unlink(missing_ok=True)
    run.change_record(warnings=("case c1: holds the same image as case c0",))
    run.log("warning", problem="duplicate-image", case="c1", found="holds the same image as case c0", fix="Remove")
    log.enter_stage("plan")
    for _ in range(2):
        log.append(run.log_file, "warning", "warning: leakage: cases c0 and c1 <hold> the same image")
    log.append(run.log_file, "note", "no warning")
    log.enter_stage("train")
    run.log("collapse", fold="2d fold 0", because="2d fold 0: background alone")
    run.log("first-loss", because="", loss=1.0)
    run.log("step-down", configuration="2d", because="memory ran out")
    for case in ("c2, c3", "c4"):
        run.log("non-finite-loss", fold="2d fold 0", cases=case)
    log.enter_stage("")
    found = [(item.stage, item.text) for item in run_warnings(gather(run))]
    assert found == [
        ("dataset", "case c1: holds the same image as case c0"),
        ("plan", "leakage: cases c0 and c1 <hold> the same image"),
        ("train", "2d fold 0: background alone"),
        ("train", "a smaller step was taken, because memory did not suffice: memory ran out"),
        ("train", "training steps were skipped, because their loss was not finite: c2, c3; c4; 2d fold 0"),
    ]
    times = {item.times.partition(",")[0] for item in run_warnings(gather(run))}
    assert times == {"", "2 times"}
    page = write_report(run).read_text()
    assert '<section id="warnings">' in page
    assert "cases c0 and c1 &lt;hold&gt; the same image" in page
    assert '<a href="#warnings">Warnings (5)</a>' in page


def test_a_run_without_any_has_no_such_section(make_run: Callable[..., RunFolder]) -> None:
    run = make_run(num_cases=4, num_epochs=3)
    run.log_file.unlink(missing_ok=True)
    run.change_record(warnings=())
    assert run_warnings(gather(run)) == ()
    assert 'id="warnings"' not in write_report(run).read_text()


def test_logs_of_older_versions_and_very_many(make_run: Callable[..., RunFolder]) -> None:
    run = make_run(num_cases=4, num_epochs=3)
    run.change_record(warnings=())
    old = [
        {"time": "2026-01-02T03:04:05+00:00", "event": "warning", "kind": "rare-class", "found": "few", "stops": False},
        {"time": "2026-01-02T03:04:05+00:00", "event": "missed", "fold": "2d fold 1", "because": "predicted no core"},
        {"time": "2026-01-02T03:04:05+00:00", "event": "warning", "what": "unlike", "case": "t1", "found": "spacing"},
    ]
    run.log_file.write_text("".join(json.dumps(row) + "\n" for row in old))
    assert [item.text for item in run_warnings(gather(run))] == ["predicted no core", "case t1: spacing"]
    for number in range(MOST):
        log.append(run.log_file, "warning", f"number {number}")
    found = run_warnings(gather(run))
    assert len(found) == MOST + 1
    assert found[-1].text == "2 more; see log.jsonl"


def test_the_manifest_tells_one_run_from_another(make_run: Callable[..., RunFolder], tmp_path: Path) -> None:
    run = make_run(num_cases=4, num_epochs=3)
    log.append(run.log_file, "start", "run", command="autoseg run a", versions={"torch": "9.9"})
    rows = dict(manifest_rows(gather(run)))
    digest = hashlib.sha256(run.plan_file.read_bytes()).hexdigest()[:12]
    assert f"plan.json {digest}" in rows["records"]
    assert rows["starts"] == "1, the last: autoseg run a; later with torch 9.9"
    assert f"plan.json {digest}" in write_report(run).read_text()
    header = json.dumps({"__metadata__": {"autoseg": json.dumps({"crc32": "0badcafe"})}}).encode()
    path = tmp_path / "w.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    assert weights_checksum(path) == "0badcafe"
    for damaged in (b"", b"\xff" * 20, len(header).to_bytes(8, "little") + b"[]", b"\x02" + b"\0" * 7 + b"{}"):
        path.write_bytes(damaged)
        assert weights_checksum(path) == ""
