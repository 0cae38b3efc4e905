"""A trained model as one file to share: what prediction needs of a run folder, and nothing that could run.

``MODEL.autoseg`` is a zip archive without compression (weights do not compress):

    bundle.json                             format, name, size and SHA-256 of every other file
    plan.json  choice.json                  decisions
    fingerprint.json  confidence.json       what new images are compared with, where the run has them
    folds/CONFIGURATION/fold_K/weights_last.safetensors  configuration.json

Weights are safetensors, records are JSON. Opening checks all sizes before anything is unpacked and all contents before
anything is read; a name that is none of these is refused. Equal models are equal files.
"""

import dataclasses
import errno
import hashlib
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from autoseg.data.io_write import replace_whole
from autoseg.errors import ModelError
from autoseg.inference.model import Selection, open_run, select
from autoseg.run_folder import RunFolder
from planners import records
from planners.plan import Plan

ENDING = ".autoseg"
FORMAT = 1
MANIFEST = "bundle.json"
RECORDS = ("plan.json", "choice.json", "fingerprint.json", "confidence.json")
WEIGHTS = re.compile(r"folds/[^/\\]+/fold_[^/\\]+/(weights_last\.safetensors|configuration\.json)")

MOST_MANIFEST_BYTES = 10**7  # assumption: thousands of folds
PART_BYTES = 2**24
NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
DATE = (1980, 1, 1, 0, 0, 0)  # the earliest that zip knows: equal models are equal files


@dataclass(frozen=True, kw_only=True)
class BundledFile:
    """One file of a bundle: its size and the SHA-256 of its content, in hexadecimal digits."""

    num_bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """``bundle.json``: what the archive holds.

    Attributes:
        format: version of the bundle.
        name: of the dataset that the model was trained on.
        networks: configurations and number of networks, for people.
        files: every file but this one, by name.
    """

    format: int = FORMAT
    name: str
    networks: str
    files: dict[str, BundledFile]


def write_bundle(model: Path, out: Path) -> Manifest:
    """Write the model of a run as one file, whole or not at all.

    Args:
        model: run folder.
        out: the file; ``.autoseg`` is added where it has another ending.

    Returns:
        What was written.

    Raises:
        ModelError: nothing is trained there.
    """
    run, plan = open_run(model)
    selection = select(run, plan)
    places = dict(sorted(_places(run, selection)))
    kept = _plan_of(plan, selection)
    contents = {"plan.json": records.dumps(kept).encode()}
    files = {name: _measure(contents.get(name, path)) for name, path in places.items()}
    manifest = Manifest(name=plan.dataset, networks=selection.name, files=files)

    def write(temporary: Path) -> None:
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED, strict_timestamps=False) as archive:
            archive.writestr(zipfile.ZipInfo(MANIFEST, DATE), records.dumps(manifest))
            for name, path in places.items():
                entry = zipfile.ZipInfo(name, DATE)
                entry.file_size = files[name].num_bytes
                with archive.open(entry, "w", force_zip64=True) as target:
                    for part in _parts(contents.get(name, path)):
                        target.write(part)

    replace_whole(bundle_path(out), ENDING, write)
    return manifest


def bundle_path(out: Path) -> Path:
    """Give a file name the ending of a bundle where it has not got it."""
    return out if out.suffix == ENDING else out.with_name(out.name + ENDING)


def is_bundle(path: Path) -> bool:
    """Tell whether a path is a file that is to be opened as a bundle."""
    return path.is_file() and path.suffix == ENDING


def unpack(bundle: Path, folder: Path) -> RunFolder:
    """Unpack a bundle into a folder, as a run folder.

    Args:
        bundle: the file.
        folder: empty.

    Raises:
        ModelError: it is no bundle, of a newer version, damaged, or holds what does not belong into one. Nothing but
            files that the manifest names, of the sizes it names, is ever written.
        OSError: there is no room in the folder.
    """
    try:
        with zipfile.ZipFile(bundle) as archive:
            manifest = _manifest(archive, bundle)
            for name, file in manifest.files.items():
                _unpack_file(archive, name, file, folder / name, bundle)
    except (OSError, ValueError, zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as fault:
        if isinstance(fault, OSError) and fault.errno in NO_ROOM:
            raise  # the bundle is well
        raise ModelError(f"{bundle} cannot be read as a bundle: {fault}. Copy the file anew") from fault
    return RunFolder(folder)


def _places(run: RunFolder, selection: Selection) -> Iterator[tuple[str, Path]]:
    for name in RECORDS:
        if name == "plan.json" or (run.root / name).is_file():
            yield name, run.root / name
    for _, folds in (*selection.folds, *selection.previous):
        for fold in folds:
            for path in (fold.weights_last, fold.configuration):
                if path.is_file():
                    yield path.relative_to(run.root).as_posix(), path


def _plan_of(plan: Plan, selection: Selection) -> Plan:
    """Keep the configurations that take part; what else was planned has no weights here."""
    names = {configuration.name for configuration, _ in (*selection.folds, *selection.previous)}
    return dataclasses.replace(plan, configurations=tuple(item for item in plan.configurations if item.name in names))


def _parts(content: bytes | Path) -> Iterator[bytes]:
    if isinstance(content, bytes):
        yield content
        return
    with content.open("rb") as file:
        while part := file.read(PART_BYTES):
            yield part


def _measure(content: bytes | Path) -> BundledFile:
    digest, size = hashlib.sha256(), 0
    for part in _parts(content):
        digest.update(part)
        size += len(part)
    return BundledFile(num_bytes=size, sha256=digest.hexdigest())


def _manifest(archive: zipfile.ZipFile, bundle: Path) -> Manifest:
    """Read the manifest and compare it with the archive's own list of files, before anything is unpacked."""
    entries = {entry.filename: entry for entry in archive.infolist()}
    about = entries.get(MANIFEST)
    if about is None or about.file_size > MOST_MANIFEST_BYTES:
        raise ModelError(f"{bundle} is no bundle of autoseg: it holds no {MANIFEST}. Give one that it has exported")
    try:
        content = records.parse(archive.read(about).decode("utf-8"))
        version = content.get("format", FORMAT) if isinstance(content, dict) else FORMAT
        if version != FORMAT:  # before the rest, whose fields may be others there
            raise ModelError(f"{bundle} has format {version}, this program knows {FORMAT}. Take a newer autoseg")
        manifest = records.from_json(Manifest, content)
    except ValueError as fault:
        raise ModelError(
            f"{bundle}: {MANIFEST} cannot be understood: {records.short(str(fault))}. Copy the file anew"
        ) from fault
    strange = [name for name in manifest.files if name not in RECORDS and not WEIGHTS.fullmatch(name)]
    strange += [name for name in manifest.files if ".." in Path(name).parts]
    strange += sorted(set(entries) ^ {MANIFEST, *manifest.files})
    if strange or len(entries) != len(archive.infolist()):
        what = records.shown(strange[0]) if strange else "a file twice"
        raise ModelError(f"{bundle} holds or names {what}, which belongs into no bundle")
    for name, file in manifest.files.items():
        entry = entries[name]
        if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != file.num_bytes:
            raise ModelError(f"{bundle}: {name} is not of the size or kind that {MANIFEST} names. Copy the file anew")
    if sum(entry.file_size for entry in archive.infolist()) > bundle.stat().st_size:
        raise ModelError(f"{bundle} holds files that lie over one another, or is cut short. Copy the file anew")
    return manifest


def _unpack_file(archive: zipfile.ZipFile, name: str, file: BundledFile, place: Path, bundle: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    with archive.open(name) as source, place.open("wb") as target:
        while part := source.read(PART_BYTES):
            digest.update(part)
            target.write(part)
    if digest.hexdigest() != file.sha256:
        raise ModelError(f"{bundle}: {name} is damaged (its SHA-256 is not the one noted). Copy the file anew")
