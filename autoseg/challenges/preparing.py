"""Lay an official folder out as a dataset in nnU-Net v2's layout: files are linked, not copied.

    OUT/
    ├── imagesTr/CASE_0000.ext …   labelsTr/CASE.ext     links to the official files, or what had to be made from them
    ├── imagesTs/CASE_0000.ext …   labelsTs/CASE.ext     test images, and their labels where they are published
    ├── dataset.json               channels, labels, groups, licence
    ├── splits_final.json          the organisers' folds, where they have any
    └── challenge.json             what was written here, and from what

Called again it goes on: what is there stays, and what a user changed is kept with a note, be it a JSON file, or a file
or link in the place of an official one.
"""

import functools
import json
import os
import re
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autoseg.challenges.base import Challenge, File, Made, Official, OfficialCase
from autoseg.challenges.official_folders import companions, missing_files, official_root
from autoseg.data.check_problem import count
from autoseg.data.folders import describe_folder, some
from autoseg.data.io import image_ending
from autoseg.data.io_write import replace_whole
from autoseg.data.parallel import default_threads, for_each_case
from autoseg.errors import DatasetError, ImageError, RunFolderError
from autoseg.progress import say
from autoseg.run_folder import records_from, write_atomic
from planners import records

RECORD, DESCRIPTION, SPLITS = "challenge.json", "dataset.json", "splits_final.json"
SHOWN = 20
"""Incomplete cases named in a message; a half download of hundreds is told by the first ones."""

LEFTOVER = r"\.(.+)\.[a-z0-9_]{8}(\..+)"
"""Temporary name of a file that is being written (``io_write.replace_whole``): its name is what the groups match."""


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """``challenge.json``: what a dataset was made from.

    Attributes:
        challenge: its name.
        raw: the official folder.
        tests: ids of the test cases.
        written: JSON file → digest of what was written, to tell it from what a user has changed.
    """

    challenge: str
    raw: str
    tests: tuple[str, ...]
    written: dict[str, str] = field(default_factory=dict)


def prepare_challenge(challenge: Challenge, raw: Path, out: Path) -> Path:
    """Lay an official folder out as a dataset; see ``autoseg.challenges.prepare``.

    Raises:
        DatasetError: ``raw`` is not the official folder, cases are not whole, or ``out`` holds something else.
    """
    from autoseg.challenges import CHALLENGES

    root = official_root(challenge, raw, CHALLENGES)
    earlier = _earlier(challenge, out, root)
    official = challenge.read(root)
    _refuse_incomplete(challenge, root, official)
    roots = [root, *([Path(earlier.raw)] if earlier else [])]
    _remove_stale_links(lay_out(official, out, roots), out, roots)
    written = {
        DESCRIPTION: _write_json(out / DESCRIPTION, _description(challenge, official), earlier),
        SPLITS: _write_json(out / SPLITS, _splits(official), earlier),
    }
    record = Prepared(
        challenge=challenge.name,
        raw=str(_absolute(root)),
        tests=tuple(case.id for case in official.tests),
        written={name: digest for name, digest in written.items() if digest},
    )
    write_atomic(out / RECORD, records.dumps(record))
    _tell(challenge, official, out)
    return out


def lay_out(official: Official, out: Path, roots: Sequence[Path] = ()) -> set[Path]:
    """Link or make every file of an official folder at its place in the dataset; give these places.

    A MetaImage header (``.mhd``) names the file of its voxels, which comes along under its own name. What a user put
    in the place of an official file stays, with a note.

    Args:
        official: the files.
        out: the dataset's folder.
        roots: official folders, of this call and of the one before; a link to a file below them is ours to replace.

    Raises:
        DatasetError: files cannot be made; the message lists them all.
    """
    jobs = [job for case in official.cases for job in _places(case, out, "Tr")]
    jobs += [job for case in official.tests for job in _places(case, out, "Ts")]
    places = {target for _, target in jobs}
    _remove_leftovers(places)
    made, kept = [], []
    for source, target in jobs:
        name = str(target.relative_to(out))
        if isinstance(source, Path):
            kept += [] if link(source, target, roots) else [name]
        elif target.is_symlink():
            kept.append(name)  # what is made is no link, so this one is a user's
        else:
            made.append((name, (source, target)))
    if made:
        for_each_case(lambda job, _: make(*job), made, "converting", default_threads())
    if kept:
        say(f"  note: not the official {count(len(kept), 'file')}, kept as found: {some(kept)}. Delete to get it back")
    return places


def _remove_leftovers(places: Iterable[Path]) -> None:
    """Take away what calls that were killed had begun to write."""
    names: dict[Path, set[str]] = {}
    for place in places:
        names.setdefault(place.parent, set()).add(place.name)
    for folder, known in names.items():
        for path in folder.glob(".*") if folder.is_dir() else ():
            found = re.fullmatch(LEFTOVER, path.name)
            if found and found[1] + found[2] in known:
                path.unlink(missing_ok=True)


def _remove_stale_links(places: set[Path], out: Path, roots: Sequence[Path]) -> None:
    """Take links of an earlier call away whose official files are no part of the dataset any more."""
    for folder in ("imagesTr", "imagesTs", "labelsTr", "labelsTs"):
        for path in (out / folder).iterdir() if (out / folder).is_dir() else ():
            if path.is_symlink() and path not in places and _leads_below(path, roots):
                path.unlink()


def link(source: Path, target: Path, roots: Sequence[Path] = ()) -> bool:
    """Put an official file at its place: a symbolic link, or a whole copy where the disk has no links.

    Args:
        source: the official file.
        target: its place. Another file there, or a link to one that is not below ``roots``, is a user's and stays.
        roots: official folders; links to files below them are ours to replace.

    Returns:
        Whether the place holds the official file now; not where it holds a user's.

    Raises:
        DatasetError: the disk fails.
    """
    source = _absolute(source)
    try:
        if target.is_symlink():
            if target.readlink() == source:
                return True
            if not (_leads_below(target, roots) or target.resolve() == source.resolve()):
                return False
            target.unlink()
        elif target.exists():
            return target.stat().st_size == source.stat().st_size  # then it is a copy of an earlier call
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            target.symlink_to(source)
        except OSError:
            replace_whole(target, target.suffix, functools.partial(shutil.copyfile, source))
        return True
    except ImageError as fault:
        raise DatasetError(str(fault)) from fault
    except OSError as fault:
        raise DatasetError(
            f"{target} cannot be made: {fault.strerror}. Free space, or choose another folder"
        ) from fault


def _leads_below(path: Path, roots: Sequence[Path]) -> bool:
    """Say whether a link names a file below one of some folders, be it there or not."""
    named = _absolute(path.parent / path.readlink())
    return any(_absolute(root) in named.parents for root in roots)


def _absolute(path: Path) -> Path:
    """Give the absolute path without following the user's own links, which may move."""
    return Path(os.path.abspath(path))


def make(file: Made, target: Path) -> None:
    """Write a file that is made from an official one, unless it is there already and no older."""
    if not (target.exists() and target.stat().st_mtime >= file.source.stat().st_mtime):
        file.write(target)


def _places(case: OfficialCase, out: Path, part: str) -> list[tuple[File, Path]]:
    """Give every file of a case with its place in the dataset, and the files that belong to these."""
    files: list[tuple[File, Path]] = [
        (file, out / f"images{part}" / f"{case.id}_{channel:04d}{_ending(file)}")
        for channel, file in enumerate(case.images)
    ]
    files += [(case.label, out / f"labels{part}" / f"{case.id}{_ending(case.label)}")] if case.label else []
    named = [(file, target) for file, target in files if isinstance(file, Path)]
    return files + [(more, target.with_name(more.name)) for file, target in named for more in companions(file)]


def _ending(file: File) -> str:
    return file.ending if isinstance(file, Made) else image_ending(file)


def _earlier(challenge: Challenge, out: Path, root: Path) -> Prepared | None:
    """Open the record of an earlier call; refuse a folder that is not ours."""
    if out.exists() and not out.is_dir():
        raise DatasetError(f"{out} is a file. Give the name of a folder for the dataset")
    if out.resolve() == root.resolve() or root.resolve() in out.resolve().parents:
        raise DatasetError(f"{out} lies in the official folder, which stays as it is. Give another folder")
    if not out.exists() or not any(out.iterdir()):
        return None
    try:
        earlier = records_from(Prepared, out / RECORD)
    except RunFolderError as fault:
        begun = {entry.name for entry in out.iterdir()} <= {"imagesTr", "imagesTs", "labelsTr", "labelsTs"}
        if begun and not (out / RECORD).exists():
            return None  # an earlier call was stopped before it wrote its record
        raise DatasetError(
            f"{out} holds something else ({describe_folder(out)}), and nothing is written over it. Give a new folder"
        ) from fault
    if earlier.challenge != challenge.name:
        raise DatasetError(f"{out} holds the dataset of challenge {earlier.challenge}. Give another folder")
    return earlier


def _refuse_incomplete(challenge: Challenge, root: Path, official: Official) -> None:
    problems = list(official.problems)
    for case in (*official.cases, *official.tests):
        problems += missing_files(case.id, [*case.images, *([case.label] if case.label else [])])
    if problems:
        lines = [f"  {problem}" for problem in problems[:SHOWN]]
        lines += [f"  and {len(problems) - SHOWN} more"] if len(problems) > SHOWN else []
        raise DatasetError(
            f"{count(len(problems), 'case')} of {challenge.title} in {root} not whole\n"
            + "\n".join(lines)
            + "\nDownload and unpack these again, or take away what is there of them"
        )
    if not official.cases:
        raise DatasetError(f"{root} holds no training case of {challenge.title}. Download the training data, too")


def _description(challenge: Challenge, official: Official) -> dict[str, Any]:
    """Give the content of ``dataset.json``."""
    groups: dict[str, list[str]] = {}
    for case in official.cases:
        if case.group is not None:
            groups.setdefault(case.group, []).append(case.id)
    first = official.cases[0].images[0]
    return {
        "name": challenge.title,
        "reference": challenge.source,
        "licence": challenge.licence,
        "channel_names": {str(number): name for number, name in enumerate(challenge.channels)},
        "labels": challenge.declared_labels,
        "numTraining": len(official.cases),
        "file_ending": _ending(first),
        **challenge.extra,
        **({"groups": groups} if groups else {}),
        **({"labels_present": dict(challenge.annotated(official.cases))} if challenge.annotated else {}),
    }


def _splits(official: Official) -> list[dict[str, list[str]]] | None:
    """Give the content of ``splits_final.json``; None where the organisers have no folds."""
    return [{"train": list(train), "val": list(validation)} for train, validation in official.splits] or None


def _write_json(path: Path, content: Any, earlier: Prepared | None) -> str:
    """Write a JSON file, but never over what a user wrote or changed; gives the digest of what was written."""
    written = earlier.written.get(path.name) if earlier is not None else None
    if path.exists() and not (written is not None and _digest_of(path) == written):
        say(f"  {path} is not as it was written here and is kept as it is")
        return written or ""
    if content is None:
        return ""
    write_atomic(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    return records.digest(content)


def _digest_of(path: Path) -> str:
    try:
        return records.digest(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return ""


def _tell(challenge: Challenge, official: Official, out: Path) -> None:
    """Say what was found, and what the user should know."""
    for what, found, expected in (
        ("training", official.cases, challenge.num_cases),
        ("test", official.tests, challenge.num_tests),
    ):
        if expected is not None and len(found) != expected:
            say(f"  note: {len(found)} {what} cases; {challenge.title} hands out {expected}")
    for note in official.notes:
        say(f"  note: {note}")
    tests = f" and {count(len(official.tests), 'test image')}" if official.tests else ""
    say(f"  {challenge.title}: {count(len(official.cases), 'case')}{tests} in {out} (data: {challenge.licence})")
