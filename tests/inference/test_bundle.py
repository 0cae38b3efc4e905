"""A model as one file: it predicts as the run does, and nothing damaged or foreign is taken for one."""

import gc
import hashlib
import json
import pickle
import re
import shutil
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

from autoseg import cli
from autoseg.compute import Compute
from autoseg.errors import AutosegError, ModelError
from autoseg.inference.bundle import FORMAT, MANIFEST, RECORDS, WEIGHTS, bundle_path, unpack, write_bundle
from autoseg.inference.model import digest_of
from autoseg.inference.predictor import Predictor, predict
from planners import records
from planners.plan import Plan

CPU = Compute(device="cpu", precision="fp32", channels_last=False, threads=1, reasons=())
SPACING = (1.0, 1.0, 1.5)


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch) -> Path:
    """The folder of temporary folders; the device is known here."""
    monkeypatch.setattr("autoseg.compute.choose", lambda *arguments, **options: CPU)
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def run(make_run):
    """A run whose choice leaves one of its configurations out."""
    return make_run((8, 8), (8, 8, 8), choice={"configurations": ("3d1",)})


def contents(bundle: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(bundle) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def rewrite(bundle: Path, files: dict[str, bytes], manifest: dict | None = None, **options) -> None:
    """Write an archive anew; the manifest is made to fit what it holds, or is the one given."""
    known = json.loads(files[MANIFEST])
    for name, content in files.items():
        if name != MANIFEST:
            known["files"][name] = {"num_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    with zipfile.ZipFile(bundle, "w", **options) as archive:
        archive.writestr(MANIFEST, json.dumps(known if manifest is None else manifest))
        for name, content in files.items():
            if name != MANIFEST:
                archive.writestr(name, content)


def test_a_bundle_predicts_as_its_run_does(run, tmp_path, temporary):
    array = np.random.default_rng(0).normal(size=(9, 12, 14)).astype(np.float32)
    expected = predict(run.root, array, SPACING)
    bundle = tmp_path / "share" / "model.autoseg"
    manifest = write_bundle(run.root, bundle)
    assert manifest.networks == "3d1, 2 networks"
    names = {"plan.json", "choice.json", *(f"folds/3d1/fold_{fold}/weights_last.safetensors" for fold in (0, 1))}
    assert set(contents(bundle)) == {MANIFEST, *names}, "what was not chosen stays at home"
    predictor = Predictor(bundle)
    found = predict(predictor, array, SPACING)
    np.testing.assert_array_equal(found, expected)
    assert len(np.unique(found)) > 1
    original = Predictor(run.root)
    assert digest_of(predictor.selection, predictor.plan) == digest_of(original.selection, original.plan)
    assert len(list(temporary.iterdir())) == 1
    del predictor
    gc.collect()
    assert not list(temporary.iterdir())


def test_equal_models_are_equal_files(run, tmp_path):
    for name in ("a", "b"):
        write_bundle(run.root, tmp_path / name)
    assert (tmp_path / "a.autoseg").read_bytes() == (tmp_path / "b.autoseg").read_bytes()
    assert bundle_path(tmp_path / "x.v2") == tmp_path / "x.v2.autoseg"
    assert bundle_path(tmp_path / "x.autoseg") == tmp_path / "x.autoseg"


def test_a_run_without_a_choice_and_with_what_new_images_are_compared_with(make_run, tmp_path):
    run = make_run((8, 8, 8), folds=(0, "all-data"))
    run.confidence_file.write_text("{}")
    bundle = tmp_path / "model.autoseg"
    write_bundle(run.root, bundle)
    assert "confidence.json" in contents(bundle)
    assert Predictor(bundle).selection.name == "3d, 2 networks"


def test_the_command_writes_one(run, tmp_path, capsys):
    assert cli.main(["export", str(run.root), str(tmp_path / "model")]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'model.autoseg'}\n"
    assert cli.main(["export", str(tmp_path / "model.autoseg"), str(tmp_path / "again")]) == 0
    assert (tmp_path / "model.autoseg").read_bytes() == (tmp_path / "again.autoseg").read_bytes()
    assert cli.main(["export", str(tmp_path / "nothing"), str(tmp_path / "x")]) == 2
    assert "nothing is no trained model: it is no folder" in capsys.readouterr().err


def test_only_names_of_weights_are_names_of_weights():
    assert WEIGHTS.fullmatch("folds/2d/fold_0/weights_last.safetensors")
    for name in ("folds/2d/fold_0/state.safetensors", "folds/a/b/fold_0/configuration.json", "/folds/2d/fold_0/x"):
        assert not WEIGHTS.fullmatch(name)


FOLD = "folds/3d1/fold_0/weights_last.safetensors"


def damaged(bundle, files):
    data = bytearray(bundle.read_bytes())
    place = data.index(files[FOLD]) + len(files[FOLD]) - 5
    data[place] ^= 1
    bundle.write_bytes(data)


def other_content(bundle, files):
    """The archive's own sum is right, the manifest's is not."""
    manifest = json.loads(files[MANIFEST])
    rewrite(bundle, {**files, FOLD: files[FOLD][:-1] + b"x"}, manifest)


def cut(bundle, files):
    bundle.write_bytes(bundle.read_bytes()[:-30])


def empty(bundle, files):
    bundle.write_bytes(b"")


def text(bundle, files):
    bundle.write_text("a model")


def wrong_size(bundle, files):
    manifest = json.loads(files[MANIFEST])
    manifest["files"][FOLD]["num_bytes"] += 1
    rewrite(bundle, files, manifest)


def extra(bundle, files):
    rewrite(bundle, {**files, "folds/3d1/fold_0/run.py": b"print()"})


def unnamed(bundle, files):
    rewrite(bundle, {**files, "run.json": b"{}"}, json.loads(files[MANIFEST]))


def traversal(bundle, files):
    rewrite(bundle, {**files, "folds/../fold_9/weights_last.safetensors": files[FOLD]})


def outside(bundle, files):
    rewrite(bundle, {**files, "../outside.json": b"{}"})


def absolute(bundle, files):
    rewrite(bundle, {**files, str(bundle.parent / "outside" / "plan.json"): b"{}"})


def backslash(bundle, files):
    rewrite(bundle, {**files, "folds\\..\\x": b"{}"})


def twice(bundle, files):
    with pytest.warns(UserWarning, match="Duplicate name"), zipfile.ZipFile(bundle, "a") as archive:
        archive.writestr("plan.json", files["plan.json"])


def compressed(bundle, files):
    rewrite(bundle, {**files, FOLD: bytes(10**6)}, compression=zipfile.ZIP_DEFLATED)


def over_one_another(bundle, files):
    """One file lies within another: so a small archive could fill a disk."""
    hidden, inner = FOLD.replace("_0", "_9"), bundle.with_name("inner")
    with zipfile.ZipFile(inner, "w") as archive:
        archive.writestr(hidden, bytes(10**5))
        entry = archive.infolist()[0]
    manifest = json.loads(files[MANIFEST])
    for name, content in ((FOLD, inner.read_bytes()), (hidden, bytes(10**5))):
        manifest["files"][name] = {"num_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    rewrite(bundle, {**files, FOLD: inner.read_bytes()}, manifest)
    with zipfile.ZipFile(bundle, "a") as archive:
        entry.header_offset = bundle.read_bytes().index(inner.read_bytes()[:100])
        archive.writestr("x", b"")  # so that the list is written anew, with the hidden file in its place
        archive.filelist[-1] = entry
    with zipfile.ZipFile(bundle) as archive:
        assert archive.read(hidden) == bytes(10**5)


def newer(bundle, files):
    rewrite(bundle, files, {"format": FORMAT + 1, "parts": []})


def odd_manifest(bundle, files):
    rewrite(bundle, files, {"format": FORMAT, "files": {}})


def no_manifest(bundle, files):
    with zipfile.ZipFile(bundle, "w") as archive:
        archive.writestr("plan.json", files["plan.json"])


def list_manifest(bundle, files):
    with zipfile.ZipFile(bundle, "w") as archive:
        archive.writestr(MANIFEST, "[")


class Evil:
    def __reduce__(self):
        return pytest.fail, ("code has run",)


def pickled(bundle, files):
    rewrite(bundle, {**files, FOLD: pickle.dumps(Evil())})


def no_weights(bundle, files):
    manifest = json.loads(files[MANIFEST])
    del manifest["files"][FOLD], files[FOLD]
    rewrite(bundle, files, manifest)


FAULTS = {
    damaged: "cannot be read as a bundle: Bad CRC-32",
    other_content: "is damaged (its SHA-256",
    cut: "cannot be read as a bundle: File is not a zip file",
    empty: "cannot be read as a bundle: File is not a zip file",
    text: "cannot be read as a bundle: File is not a zip file",
    wrong_size: f"{FOLD} is not of the size or kind",
    extra: 'holds or names "folds/3d1/fold_0/run.py", which belongs into no bundle',
    unnamed: 'holds or names "run.json", which belongs into no bundle',
    traversal: 'holds or names "folds/../fold_9/weights_last',
    outside: 'holds or names "../outside.json"',
    absolute: 'holds or names "/',
    backslash: "which belongs into no bundle",
    twice: "holds or names a file twice",
    compressed: "is not of the size or kind",
    over_one_another: "lie over one another",
    newer: f"has format {FORMAT + 1}, this program knows {FORMAT}. Take a newer autoseg",
    odd_manifest: f"{MANIFEST} cannot be understood: $",
    no_manifest: f"is no bundle of autoseg: it holds no {MANIFEST}",
    list_manifest: f"{MANIFEST} cannot be understood",
    pickled: "cannot be read as weights",
    no_weights: "is not complete",
}


@pytest.mark.parametrize("change", FAULTS, ids=lambda change: change.__name__)
def test_what_is_no_whole_bundle_is_one_message_and_leaves_nothing(run, tmp_path, temporary, change):
    place = tmp_path / "shared"
    bundle = place / "model.autoseg"
    write_bundle(run.root, bundle)
    change(bundle, contents(bundle))
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ModelError, match=re.escape(FAULTS[change])) as fault:
        Predictor(bundle)
    assert str(bundle) in str(fault.value)
    assert str(temporary) not in str(fault.value)
    del fault
    gc.collect()
    assert sorted(tmp_path.rglob("*")) == before


def test_any_damage_is_found(run, tmp_path, temporary):
    """Every byte belongs to a name, a size, a sum or a content that is compared; the rest (dates) changes nothing."""
    bundle, made = tmp_path / "model.autoseg", tmp_path / "made"
    write_bundle(run.root, bundle)
    whole, files = bundle.read_bytes(), contents(bundle)
    generator = np.random.default_rng(0)
    refused = 0
    for place in [*generator.integers(len(whole), size=60), *range(len(whole) - 400, len(whole), 5)]:
        data = bytearray(whole)
        data[place] ^= int(generator.integers(1, 256))
        bundle.write_bytes(data)
        try:
            found = unpack(bundle, made).root
        except ModelError:
            refused += 1
        else:
            assert {name: (found / name).read_bytes() for name in files if name != MANIFEST} == {
                name: content for name, content in files.items() if name != MANIFEST
            }
        shutil.rmtree(made, ignore_errors=True)
    assert refused > 80


def test_no_room_is_not_the_bundles_fault(run, tmp_path, temporary, monkeypatch):
    bundle = tmp_path / "model.autoseg"
    write_bundle(run.root, bundle)

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("autoseg.inference.bundle._unpack_file", full)
    with pytest.raises(ModelError, match=r"cannot be opened: No space left on device, in .*TMPDIR"):
        Predictor(bundle)
    assert not list(temporary.iterdir())


def test_a_choice_that_cannot_be_read_names_the_bundle(run, tmp_path, temporary):
    bundle = tmp_path / "model.autoseg"
    write_bundle(run.root, bundle)
    rewrite(bundle, {**contents(bundle), "choice.json": b"{}"})
    with pytest.raises(AutosegError, match=rf"{re.escape(str(bundle))}/choice\.json"):
        Predictor(bundle)
    assert not list(temporary.iterdir())


def test_names_that_lead_out_of_a_bundle_are_refused(run, tmp_path):
    bundle = tmp_path / "model.autoseg"
    write_bundle(run.root, bundle)
    files = contents(bundle)
    elsewhere = str(run.root / "folds" / "3d1")
    changed = {name: files[name].replace(b'"3d1"', json.dumps(elsewhere).encode()) for name in RECORDS[:2]}
    rewrite(bundle, {**files, **changed})
    with pytest.raises(AutosegError, match=rf"{re.escape(str(bundle))}.*a configuration is named"):
        Predictor(bundle)


def test_a_plan_that_does_not_fit_names_the_bundle(run, tmp_path, temporary):
    bundle = tmp_path / "model.autoseg"
    write_bundle(run.root, bundle)
    files = contents(bundle)
    plan = json.loads(files["plan.json"])
    plan["configurations"][0]["architecture"]["stages"][1]["features"] = 6
    rewrite(bundle, {**files, "plan.json": json.dumps(plan).encode()})
    with pytest.raises(AutosegError, match=rf"{re.escape(str(bundle))}/folds.*do not fit the network"):
        Predictor(bundle)


def test_a_file_that_is_no_model(tmp_path):
    (tmp_path / "model.zip").write_bytes(b"")
    with pytest.raises(ModelError, match=r"model.zip is no model: give a run folder, a \.autoseg file"):
        Predictor(tmp_path / "model.zip")


def test_the_plan_of_a_bundle_is_the_plan_of_what_was_chosen(run, tmp_path):
    bundle = tmp_path / "model.autoseg"
    write_bundle(run.root, bundle)
    plan = records.from_json(Plan, json.loads(contents(bundle)["plan.json"]))
    assert [item.name for item in plan.configurations] == ["3d1"]
