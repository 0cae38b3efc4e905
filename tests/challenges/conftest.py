"""Small folders in the official layout of every challenge, made in code: two or three cases each, two to submit."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from autoseg.challenges import CHALLENGES
from autoseg.data.image import Geometry, flat_geometry
from autoseg.data.io import write_segmentation
from autoseg.data.io_write import write_values

SHAPE = (6, 10, 12)
GEOMETRY = Geometry(spacing_mm=(2.5, 0.8, 0.75), origin=(-12.0, 7.5, 30.0))


@dataclass
class Example:
    """A small official folder.

    Attributes:
        root: the folder.
        train: ids of the dataset's training cases.
        tests: id of each test case → its true label in the dataset's values (z, y, x).
        archive: name in the submission → id of the test case; empty where a submission is no archive.
        a_file: an official file without which a case is not whole, and how that case is called in the message.
        geometry: of all images.
    """

    root: Path
    train: list[str]
    tests: dict[str, np.ndarray]
    archive: dict[str, str]
    a_file: tuple[Path, str]
    geometry: Geometry = field(default_factory=lambda: GEOMETRY)

    def write_predictions(self, folder: Path) -> Path:
        """Write perfect predictions of the test cases, as autoseg names them."""
        folder.mkdir(parents=True, exist_ok=True)
        ending = ".png" if self.geometry.dimensions == 2 else ".nii.gz"
        for case, label in self.tests.items():
            write_segmentation(folder / f"{case}{ending}", label, self.geometry)
        return folder


def image(seed: int, shape: Sequence[int] = SHAPE) -> np.ndarray:
    """Make intensities that no other seed makes."""
    return np.random.default_rng(seed).integers(0, 200, size=tuple(shape)).astype(np.uint8)


def label(values: Sequence[int], shift: int = 0, shape: Sequence[int] = SHAPE) -> np.ndarray:
    """Make a map that holds every value, in slabs of equal size."""
    size = int(np.prod(shape))
    order = (np.arange(size) * len(values) // size + shift) % len(values)
    return np.array(values)[order].reshape(tuple(shape))


def write(path: Path, array: np.ndarray) -> None:
    """Write a volume; of integers, in the smallest type."""
    if path.suffix == ".mhd":
        write_values(path, array.astype(np.uint8), GEOMETRY)
    else:
        write_segmentation(path, array, GEOMETRY)


def write_channels(path: Path, channels: Sequence[np.ndarray]) -> None:
    """Write a 4D NIfTI file with one volume per channel."""
    path.parent.mkdir(parents=True, exist_ok=True)
    volumes = []
    for channel in channels:
        volume = sitk.GetImageFromArray(channel)
        volume.SetSpacing(GEOMETRY.file_spacing)
        volume.SetOrigin(GEOMETRY.origin)
        volumes.append(volume)
    sitk.WriteImage(sitk.JoinSeries(volumes), str(path))


def make_msd(root: Path, name: str, task: str) -> Example:
    folder, case = root / task, task.split("_")[1].lower()
    challenge = CHALLENGES[name]
    train, tests = [f"{case}_{number:03d}" for number in (1, 4, 7)], [f"{case}_{number:03d}" for number in (2, 3)]
    for seed, each in enumerate([*train, *tests]):
        path = folder / ("imagesTr" if each in train else "imagesTs") / f"{each}.nii.gz"
        channels = [image(10 * seed + channel) for channel in range(len(challenge.channels))]
        write(path, channels[0]) if len(channels) == 1 else write_channels(path, channels)
        path.with_name(f"._{path.name}").write_bytes(b"\x00\x05\x16\x07")
    for each in train:
        write(folder / "labelsTr" / f"{each}.nii.gz", label(challenge.values))
    content = {
        "name": "BRATS" if name == "msd01" else task.split("_")[1],
        "modality": {str(number): channel for number, channel in enumerate(challenge.channels)},
        "labels": {str(value): f"structure {value}" for value in challenge.values},
        "numTraining": len(train),
        "numTest": len(tests),
        "training": [{"image": f"./imagesTr/{each}.nii.gz", "label": f"./labelsTr/{each}.nii.gz"} for each in train],
        "test": [f"./imagesTs/{each}.nii.gz" for each in tests],
    }
    (folder / "dataset.json").write_text(json.dumps(content))
    return Example(
        root=folder,
        train=train,
        tests={each: label(challenge.values, shift) for shift, each in enumerate(tests)},
        archive={f"{task}/{each}.nii.gz": each for each in tests},
        a_file=(folder / "labelsTr" / f"{train[1]}.nii.gz", train[1]),
    )


def make_acdc(root: Path) -> Example:
    values, frames = (0, 1, 2, 3), {"patient001": (1, 12), "patient002": (11, 4), "patient101": (1, 9)}
    for seed, (patient, (end_diastole, end_systole)) in enumerate(frames.items()):
        folder = root / "database" / ("testing" if patient == "patient101" else "training") / patient
        folder.mkdir(parents=True)
        (folder / "Info.cfg").write_text(f"ED: {end_diastole}\nES: {end_systole}\nGroup: DCM\nNbFrame: 30\n")
        write_channels(folder / f"{patient}_4d.nii.gz", [image(90 + seed), image(95 + seed)])
        for frame in (end_diastole, end_systole):
            write(folder / f"{patient}_frame{frame:02d}.nii.gz", image(seed + 10 * frame))
            if patient != "patient101":
                write(folder / f"{patient}_frame{frame:02d}_gt.nii.gz", label(values, frame))
    tests = {f"patient101_{phase}": label(values, shift) for shift, phase in enumerate(("ED", "ES"))}
    training = root / "database" / "training"
    return Example(
        root=root / "database",
        train=["patient001_ED", "patient001_ES", "patient002_ED", "patient002_ES"],
        tests=tests,
        archive={f"{case}.nii.gz": case for case in tests},
        a_file=(training / "patient002" / "patient002_frame04_gt.nii.gz", "patient002_ES"),
    )


def make_amos(root: Path, *, ct_only: bool = False) -> Example:
    folder, values = root / "amos22", tuple(range(16))
    parts = {"Tr": ("0001", "0004", "0507"), "Va": ("0008", "0517"), "Ts": ("0002", "0003", "0600")}
    for part, numbers in parts.items():
        for number in numbers:
            write(folder / f"images{part}" / f"amos_{number}.nii.gz", image(int(number)))
            if part != "Ts":
                write(folder / f"labels{part}" / f"amos_{number}.nii.gz", label(values, int(number)))
    (folder / "dataset.json").write_text(json.dumps({"name": "AMOS", "training": []}))
    kept = {part: [f"amos_{n}" for n in numbers if not ct_only or int(n) <= 500] for part, numbers in parts.items()}
    tests = {case: label(values, shift) for shift, case in enumerate(kept["Ts"])}
    return Example(
        root=folder,
        train=[*kept["Tr"], *kept["Va"]],
        tests=tests,
        archive={f"results/{case}.nii.gz": case for case in tests},
        a_file=(folder / "imagesVa" / "amos_0008.nii.gz", "amos_0008"),
    )


def make_lits(root: Path) -> Example:
    folder, values = root / "LiTS", (0, 1, 2)
    for number, batch in ((0, 1), (10, 1), (28, 2)):
        write(folder / f"Training Batch {batch}" / f"volume-{number}.nii", image(number))
        write(folder / f"Training Batch {batch}" / f"segmentation-{number}.nii", label(values, number))
    tests = {}
    for number in (0, 12):
        write(folder / "LITS-Challenge-Test-Data" / f"test-volume-{number}.nii", image(50 + number))
        tests[f"test-volume-{number}"] = label(values, number + 1)
    return Example(
        root=folder,
        train=["volume-0", "volume-10", "volume-28"],
        tests=tests,
        archive={"test-segmentation-0.nii": "test-volume-0", "test-segmentation-12.nii": "test-volume-12"},
        a_file=(folder / "Training Batch 2" / "segmentation-28.nii", "volume-28"),
    )


def make_promise12(root: Path) -> Example:
    folder, values = root / "PROMISE12", (0, 1)
    for number, part in ((0, 1), (17, 2), (49, 3)):
        place = folder / f"TrainingData_Part{part}"
        write(place / f"Case{number:02d}.mhd", image(number))
        write(place / f"Case{number:02d}_segmentation.mhd", label(values, number))
    for number in (0, 1):
        write(folder / "TestData" / f"Case{number:02d}.mhd", image(60 + number))
    return Example(
        root=folder,
        train=["Case00", "Case17", "Case49"],
        tests={"Case00": label(values), "Case01": label(values, 1)},
        archive={"Case00_segmentation.mhd": "Case00", "Case01_segmentation.mhd": "Case01"},
        a_file=(folder / "TrainingData_Part2" / "Case17.raw", "Case17"),
    )


def make_isbi2012(root: Path) -> Example:
    folder, slice_shape, geometry = root / "ISBI-2012-challenge", (1, 12, 14), flat_geometry(known=False)
    slices = {part: [image(seed + 3 * number, slice_shape) for number in range(3)] for seed, part in enumerate("tu")}
    labels = [np.where(image(70 + number, slice_shape) < 60, 0, 255) for number in range(6)]
    for name, pages in (("train-volume", slices["t"]), ("train-labels", labels[:3]), ("test-volume", slices["u"])):
        folder.mkdir(parents=True, exist_ok=True)
        write_values(folder / f"{name}.tif", np.concatenate(pages).astype(np.uint8), geometry)
    return Example(
        root=folder,
        train=["train-00", "train-01", "train-02"],
        tests={f"test-{number:02d}": labels[3 + number] for number in range(3)},
        archive={},
        a_file=(folder / "train-labels.tif", "train-labels.tif"),
        geometry=geometry,
    )


def make_brats(root: Path, name: str, archives: Sequence[str], scans: Sequence[str], files: Sequence[str]) -> Example:
    folder, values = root / "BraTS", CHALLENGES[name].values
    for seed, scan in enumerate(scans):
        training = scan != scans[-1] and scan != scans[-2]
        place = folder / archives[0 if training else 1] / scan
        for channel, file in enumerate(files[:-1]):
            write(place / f"{scan}{file}.nii.gz", image(10 * seed + channel))
        if training:
            write(place / f"{scan}{files[-1]}.nii.gz", label(values, seed))
    tests = {scan: label(values, shift) for shift, scan in enumerate(scans[-2:])}
    return Example(
        root=folder,
        train=list(scans[:-2]),
        tests=tests,
        archive={f"{scan}.nii.gz": scan for scan in tests},
        a_file=(folder / archives[0] / scans[1] / f"{scans[1]}{files[-1]}.nii.gz", scans[1]),
    )


def make_kits23(root: Path) -> Example:
    folder, values = root / "kits23", (0, 1, 2, 3)
    train, tests = ["case_00000", "case_00001", "case_00400"], ["case_00589", "case_00590"]
    for seed, case in enumerate(train):
        write(folder / "dataset" / case / "imaging.nii.gz", image(seed))
        write(folder / "dataset" / case / "segmentation.nii.gz", label(values, seed))
        write(folder / "dataset" / case / "instances" / "kidney_instance-1_annotation-1.nii.gz", label((0, 1)))
    for seed, case in enumerate(tests):
        write(folder / "images" / f"{case}.nii.gz", image(20 + seed))
    return Example(
        root=folder,
        train=train,
        tests={case: label(values, shift) for shift, case in enumerate(tests)},
        archive={f"{case}.nii.gz": case for case in tests},
        a_file=(folder / "dataset" / "case_00001" / "imaging.nii.gz", "case_00001"),
    )


def make_btcv(root: Path) -> Example:
    folder, values = root / "RawData", tuple(range(14))
    for number in (1, 2, 40):
        write(folder / "Training" / "img" / f"img{number:04d}.nii.gz", image(number))
        write(folder / "Training" / "label" / f"label{number:04d}.nii.gz", label(values, number))
    for number in (61, 62):
        write(folder / "Testing" / "img" / f"img{number:04d}.nii.gz", image(number))
    return Example(
        root=folder,
        train=["img0001", "img0002", "img0040"],
        tests={"img0061": label(values), "img0062": label(values, 1)},
        archive={"label0061.nii.gz": "img0061", "label0062.nii.gz": "img0062"},
        a_file=(folder / "Training" / "label" / "label0002.nii.gz", "img0002"),
    )


def make_flare22(root: Path) -> Example:
    folder, values = root / "FLARE2022", tuple(range(14))
    labelled, tuning = folder / "Training" / "FLARE22_LabeledCase50", folder / "Tuning"
    for number in (1, 2, 50):
        write(labelled / "images" / f"FLARE22_Tr_{number:04d}_0000.nii.gz", image(number))
        write(labelled / "labels" / f"FLARE22_Tr_{number:04d}.nii.gz", label(values, number))
    write(folder / "Training" / "FLARE22_UnlabeledCase1-1000" / "Case_00001_0000.nii.gz", image(70))
    tests = {f"FLARETs_{number:04d}": label(values, number) for number in (1, 2)}
    for seed, case in enumerate(tests):
        write(tuning / "images" / f"{case}_0000.nii.gz", image(80 + seed))
        write(tuning / "labels" / f"{case}.nii.gz", tests[case])
        write(folder / "Testing" / f"{case}_0000.nii.gz", image(90 + seed))
    return Example(
        root=folder,
        train=["FLARE22_Tr_0001", "FLARE22_Tr_0002", "FLARE22_Tr_0050"],
        tests=tests,
        archive={f"{case}.nii.gz": case for case in tests},
        a_file=(labelled / "labels" / "FLARE22_Tr_0002.nii.gz", "FLARE22_Tr_0002"),
    )


def make_flare23(root: Path) -> Example:
    folder, values = root / "MICCAI-FLARE23", tuple(range(15))
    annotated = {"FLARE23_0001": (0, 1, 2, 3, 4, 13), "FLARE23_0002": (0, 14), "FLARE23_0003": values}
    for seed, (case, found) in enumerate(annotated.items()):
        write(folder / "imagesTr2200" / f"{case}_0000.nii.gz", image(seed))
        write(folder / "labelsTr2200" / f"{case}.nii.gz", label(found, seed))
    write(folder / "unlabeledTr1800" / "FLARE23_2201.nii.gz", image(70))
    tests = {f"FLARE23Ts_{number:04d}": label(values, number) for number in (1, 2)}
    for seed, case in enumerate(tests):
        write(folder / "validation" / f"{case}_0000.nii.gz", image(80 + seed))
    return Example(
        root=folder,
        train=list(annotated),
        tests=tests,
        archive={f"{case}.nii.gz": case for case in tests},
        a_file=(folder / "labelsTr2200" / "FLARE23_0002.nii.gz", "FLARE23_0002"),
    )


BRATS_2021 = (
    ("RSNA_ASNR_MICCAI_BraTS2021_TrainingData_16July2021", "RSNA_ASNR_MICCAI_BraTS2021_ValidationData"),
    ("BraTS2021_00000", "BraTS2021_00002", "BraTS2021_00003", "BraTS2021_00001", "BraTS2021_00013"),
    ("_t1", "_t1ce", "_t2", "_flair", "_seg"),
)
BRATS_2023 = (
    ("ASNR-MICCAI-BraTS2023-GLI-Challenge-TrainingData", "ASNR-MICCAI-BraTS2023-GLI-Challenge-ValidationData"),
    tuple(f"BraTS-GLI-{scan}" for scan in ("00000-000", "00000-001", "00002-000", "00001-000", "00013-001")),
    ("-t1n", "-t1c", "-t2w", "-t2f", "-seg"),
)
"""Archives, scans (the last two for validation) and files of a scan, label last."""

MAKERS: dict[str, Callable[[Path], Example]] = {
    "msd01": lambda root: make_msd(root, "msd01", "Task01_BrainTumour"),
    "msd02": lambda root: make_msd(root, "msd02", "Task02_Heart"),
    "msd03": lambda root: make_msd(root, "msd03", "Task03_Liver"),
    "msd04": lambda root: make_msd(root, "msd04", "Task04_Hippocampus"),
    "msd05": lambda root: make_msd(root, "msd05", "Task05_Prostate"),
    "msd06": lambda root: make_msd(root, "msd06", "Task06_Lung"),
    "msd07": lambda root: make_msd(root, "msd07", "Task07_Pancreas"),
    "msd08": lambda root: make_msd(root, "msd08", "Task08_HepaticVessel"),
    "msd09": lambda root: make_msd(root, "msd09", "Task09_Spleen"),
    "msd10": lambda root: make_msd(root, "msd10", "Task10_Colon"),
    "acdc": make_acdc,
    "amos22": make_amos,
    "amos22-ct": lambda root: make_amos(root, ct_only=True),
    "lits": make_lits,
    "promise12": make_promise12,
    "isbi2012": make_isbi2012,
    "brats2021": lambda root: make_brats(root, "brats2021", *BRATS_2021),
    "brats2023": lambda root: make_brats(root, "brats2023", *BRATS_2023),
    "kits23": make_kits23,
    "btcv": make_btcv,
    "flare22": make_flare22,
    "flare23": make_flare23,
}
"""Maker of the small official folder of every challenge; a challenge without one fails the contract test."""


@pytest.fixture
def make_example() -> Callable[[str, Path], Example]:
    """Give a function that makes the official folder of a challenge inside a folder."""

    def make(name: str, root: Path) -> Example:
        assert name in MAKERS, f"give challenge {name} a maker in tests/challenges/conftest.py"
        return MAKERS[name](root)

    return make


@pytest.fixture(scope="session")
def all_examples(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Give the official folder of every challenge, each in a folder of its own; not to be changed."""
    return {name: maker(tmp_path_factory.mktemp(name)).root for name, maker in MAKERS.items()}
