"""Files in order, which the fuzzer damages: small images, records, descriptions of datasets, weights."""

import gzip
import io
import json
import re
import struct
from pathlib import Path
from typing import Any

import numpy as np


def image_seeds(folder: Path) -> dict[str, list[bytes]]:
    """Small images of each format, by the name of the file they are laid under."""
    import SimpleITK as sitk
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    volume = np.arange(3 * 4 * 5, dtype=np.int16).reshape(3, 4, 5)
    picture = (np.arange(6 * 7) % 251).astype(np.uint8).reshape(6, 7)

    def by_itk(name: str, array: np.ndarray, *, compressed: bool = False, colours: bool = False) -> bytes:
        image = sitk.GetImageFromArray(array, isVector=colours)
        image.SetSpacing([0.5, 0.75, 2.0][: image.GetDimension()])
        sitk.WriteImage(image, str(folder / name), useCompression=compressed)
        return (folder / name).read_bytes()

    def by_pillow(form: str, mode: str, **fields: Any) -> bytes:
        file = io.BytesIO()
        Image.fromarray(picture).convert(mode).save(file, form, **fields)
        return file.getvalue()

    colours = np.stack([picture, picture // 2, picture // 3], axis=-1)
    dicom = sitk.GetImageFromArray(volume[:1])
    dicom.SetSpacing((0.5, 0.75, 2.0))
    sitk.WriteImage(dicom, str(folder / "a.dcm"))
    return {
        "case.nii": [by_itk("a.nii", volume), nifti(), nifti(version=2), by_itk("b.nii", volume.astype(np.float32))],
        "case.nii.gz": [by_itk("a.nii.gz", volume), gzip.compress(nifti(), mtime=0)],
        "case.nrrd": [by_itk("a.nrrd", volume), by_itk("b.nrrd", volume, compressed=True)],
        "case.mha": [by_itk("a.mha", volume), by_itk("b.mha", volume, compressed=True)],
        "case.tif": [
            by_itk("a.tif", volume.astype(np.uint16)), by_itk("b.tif", colours, colours=True),
            by_pillow("TIFF", "L", compression="tiff_lzw"), by_pillow("TIFF", "L", compression="tiff_deflate"),
            by_pillow("TIFF", "P"), by_pillow("TIFF", "1", compression="group4"),
        ],
        "case.png": [
            by_itk("a.png", picture), by_pillow("PNG", "LA"), by_pillow("PNG", "P"), by_pillow("PNG", "RGBA"),
            by_pillow("PNG", "1"),
        ],
        "case.jpg": [by_pillow("JPEG", "L"), by_pillow("JPEG", "RGB", progressive=True)],
        "case.bmp": [by_pillow("BMP", "L"), by_pillow("BMP", "RGB")],
        "case.gif": [by_pillow("GIF", "P")],
        "case.dcm": [_timeless((folder / "a.dcm").read_bytes())],
    }  # fmt: skip


def _timeless(content: bytes) -> bytes:
    """Take the date and the drawn identifiers out of a DICOM file, so that it is the same every day."""
    content = re.sub(rb"(?<=\.2\.1125\.1\.)\d+", lambda found: b"1" * len(found[0]), content)
    content = re.sub(rb"\d{6}\.\d{6}", b"101010.101010", content)
    return re.sub(rb"20\d{6}(?=\x08\x00)", b"20260101", content)


def nifti(shape: tuple[int, ...] = (5, 4, 3), code: int = 4, version: int = 1, **fields: Any) -> bytes:
    """A NIfTI file of zeros, or one that lies.

    Args:
        shape: x first, as the header claims it.
        code: of the voxels' type.
        version: 1 or 2.
        fields: ``spacing`` (x first), ``dims`` (what dim[0] claims), ``data`` (bytes), ``affine`` (3×4, as the sform),
            ``quaternion`` (b, c, d), ``offset``, ``slope``, ``bits``.
    """
    sizes = {2: 1, 4: 2, 8: 4, 16: 4, 64: 8, 128: 3, 256: 1, 512: 2, 768: 4, 1024: 8, 1280: 8}
    bits = fields.get("bits", 8 * sizes.get(code, 2))
    dim = [fields.get("dims", len(shape)), *shape, *[1] * (7 - len(shape))]
    spacing = [*fields.get("spacing", (1.0,) * len(shape))]
    pixdim = [1.0, *spacing, *[1.0] * (7 - len(spacing))]
    affine = fields.get("affine")
    rows = [0.0] * 12 if affine is None else [float(value) for row in affine for value in row]
    quaternion = [*fields.get("quaternion", (0.0, 0.0, 0.0)), 0.0, 0.0, 0.0]
    codes = (int(affine is None), int(affine is not None))
    data = fields.get("data", bytes(5 * 4 * 3 * 2))
    slope = fields.get("slope", (1.0, 0.0))
    if version == 2:
        raw = struct.pack("<i8s2h8q3d", 540, b"n+2\0\r\n\x1a\n", code, bits, *dim, 0.0, 0.0, 0.0)
        raw += struct.pack("<8dq2d2d2d2q", *pixdim, fields.get("offset", 544), *slope, 0, 0, 0, 0, 0, 0)
        raw += bytes(80 + 24) + struct.pack("<2i6d12d", *codes, *quaternion, *rows)
        raw += bytes(544 - len(raw))
        return raw + data
    raw = struct.pack("<i36s8h", 348, b"", *dim) + struct.pack("<3f4h", 0, 0, 0, 0, code, bits, 0)
    raw += struct.pack("<8f", *pixdim) + struct.pack("<3f", fields.get("offset", 352.0), *slope)
    raw += bytes(252 - len(raw)) + struct.pack("<2h6f12f", *codes, *quaternion, *rows)
    return raw + bytes(344 - len(raw)) + b"n+1\0" + bytes(4) + data


def record_seeds() -> dict[str, bytes]:
    """The text of a record of each kind, by the name of its file."""
    from autoseg.data.splits import Fold, Splits
    from autoseg.evaluation.selection import Choice
    from autoseg.inference.folder import PredictionsRecord
    from autoseg.run_folder import CaseFiles, RunRecord
    from planners import PLANNERS, Channel, Fingerprint, LabelClass, Labels, MemoryBudget, records

    labels = Labels(classes=tuple(LabelClass(name=name, value=value) for value, name in enumerate(("none", "rim"))))
    fingerprint = Fingerprint(
        dataset="small", channels=(Channel(name="MRI"),), labels=labels, num_cases=3,
        spacings_mm=((3.0, 1.0, 1.0),) * 3, shapes=((12, 40, 40),) * 3,
    )  # fmt: skip
    plan = PLANNERS["default"](fingerprint, MemoryBudget())
    choice = Choice(
        configurations=("2d", "3d_fullres"), folds=(0, 1, "all-data"), postprocessing=(), structures=("rim",),
        num_cases=3, mean_dice=0.5, mean_iou=None, dice=(0.5,), candidates=(), trials=(), reasons=(),
    )  # fmt: skip
    run = RunRecord(
        name="small", dataset="/data/small", started="today", seed=1, folds=(0, "all-data"),
        cases=(CaseFiles(id="a", images=("a.nii.gz",), label="l.nii.gz"), CaseFiles(id="b", images=("b.nii.gz",))),
        options={"epochs": 3}, compute={"device": "cpu"},
    )  # fmt: skip
    splits = Splits(folds=(Fold(train=("a", "b"), validation=("c",)), Fold(train=("c",), validation=("a",))), source="")
    predictions = PredictionsRecord(model="/m", digest="0", networks="2d", labels={"none": 0, "rim": 1})
    found = {
        "plan.json": plan, "choice.json": choice, "fingerprint.json": fingerprint, "run.json": run,
        "splits.json": splits, "predictions.json": predictions,
    }  # fmt: skip
    return {name: records.dumps(record).encode() for name, record in found.items()}


def dataset_seeds() -> dict[str, list[bytes]]:
    """Descriptions of a dataset whose cases are a, b and c, by the name of the file."""
    names = ("a", "b", "c")
    pair = [{"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"} for name in names]
    ours = {
        "channel_names": {"0": "MRI"}, "labels": {"background": 0, "rim": 1, "whole": [1, 2]}, "file_ending": ".nii.gz",
        "numTraining": 3, "regions_class_order": [1, 2], "groups": {"p": ["a", "b"]}, "labels_present": {"a": ["rim"]},
    }  # fmt: skip
    cells = {"channel_names": {"0": "MRI"}, "labels": {"background": 0, "cell": 1}, "instances": ["cell"]}
    decathlon = {"modality": {"0": "MRI"}, "labels": {"0": "none", "1": "rim"}, "training": pair, "test": ["./t.nii"]}
    listed = {name: {"images": [f"imagesTr/{name}.nii.gz"], "label": f"labelsTr/{name}.nii.gz"} for name in names}
    table = {"channel_names": ["MRI"], "labels": {"background": 0, "rim": 1}, "dataset": listed}
    folds = [{"train": ["a", "b"], "val": ["c"]}, {"train": ["c", "b"], "val": ["a"]}]
    rows = "".join(
        f"{name},imagesTr/{name}_0000.nii.gz,labelsTr/{name}.nii.gz,p{fold},{fold},rim\n"
        for fold, name in enumerate(names)
    )
    return {
        "dataset.json": [json.dumps(item).encode() for item in (ours, cells, decathlon, table)],
        "splits_final.json": [json.dumps(folds).encode(), json.dumps({"folds": folds}).encode()],
        "table.csv": [f"case,image,label,group,split,labels_present\n{rows}".encode()],
    }


def lay_dataset(folder: Path) -> None:
    """Lay a dataset of three tiny cases out as nnU-Net has it."""
    for name in ("a", "b", "c"):
        for place in (f"imagesTr/{name}_0000.nii.gz", f"imagesTr/{name}.nii.gz", f"labelsTr/{name}.nii.gz"):
            if place == f"imagesTr/{name}.nii.gz":
                continue
            (folder / place).parent.mkdir(parents=True, exist_ok=True)
            (folder / place).write_bytes(gzip.compress(nifti(), mtime=0))
    (folder / "dataset.json").write_bytes(dataset_seeds()["dataset.json"][0])


def weights_seed() -> bytes:
    """A file of weights as autoseg writes it."""
    import torch
    from safetensors.torch import save

    tensors = {"stem.weight": torch.arange(12.0).reshape(3, 4), "head.bias": torch.zeros(2, dtype=torch.float16)}
    return save(tensors, metadata={"autoseg": json.dumps({"step": "1"})})
