"""BTCV, 13 abdominal organs in CT: the abdomen part of "Multi-Atlas Labeling Beyond the Cranial Vault" (MICCAI 2015).

Layout (``Abdomen/RawData.zip``)::

    RawData/
    ├── Training/img/img0001.nii.gz …   Training/label/label0001.nii.gz …
    └── Testing/img/img0061.nii.gz …

Labels: 1 spleen to 13 left adrenal gland, see ``ORGANS``.

Source: synapse.org/Synapse:syn3193805 (wiki 217752 data, 217789 labels); the organs' values also in torch-em's and
    PaddleSeg's readers of this dataset; 50 scans, of which 30 have labels.
Unknown: how a submitted file has to be named, and in what archive, is not documented where we could look; a submission
    repeats the names of the training labels. The licence is not stated; the data are given out after registration.
    The registered copies (``Reg-Training-…``) and ``averaged-training-images`` of the same page are other data.
"""

from pathlib import Path

from autoseg.challenges.base import Challenge, Official, OfficialCase, Submission
from autoseg.challenges.official_folders import files_matching, pair

TRAINING, TRAINING_LABELS, TESTING = "Training/img", "Training/label", "Testing/img"
IMAGE, LABEL = r"img(\d{4})\.nii\.gz", r"label(\d{4})\.nii\.gz"

ORGANS = {
    "spleen": 1,
    "right kidney": 2,
    "left kidney": 3,
    "gallbladder": 4,
    "esophagus": 5,
    "liver": 6,
    "stomach": 7,
    "aorta": 8,
    "inferior vena cava": 9,
    "portal vein and splenic vein": 10,
    "pancreas": 11,
    "right adrenal gland": 12,
    "left adrenal gland": 13,
}
"""Value of each organ. Source: synapse.org/Synapse:syn3193805/wiki/217789."""


def recognise(folder: Path) -> bool:
    """Say whether a folder is ``RawData`` of the abdomen part; the cervix part names its files otherwise."""
    return any(files_matching(folder / part, IMAGE) for part in (TRAINING, TESTING))


def read(folder: Path) -> Official:
    """List the scans; those of ``Testing`` have no labels."""
    images = files_matching(folder / TRAINING, IMAGE)
    cases, problems = pair(images, files_matching(folder / TRAINING_LABELS, LABEL), _name)
    tests = [
        OfficialCase(id=_name(number), images=(path,))
        for number, path in files_matching(folder / TESTING, IMAGE).items()
    ]
    return Official(cases=tuple(cases), tests=tuple(tests), problems=tuple(problems))


def _name(number: str) -> str:
    return f"img{number}"


BTCV = Challenge(
    name="btcv",
    title="BTCV (abdomen)",
    source="https://www.synapse.org/#!Synapse:syn3193805/wiki/89480",
    licence="not stated; given out on Synapse after registration",
    protocol="btcv",
    expects=f"{TRAINING}/img0001.nii.gz, {TRAINING_LABELS}/label0001.nii.gz and {TESTING}/img0061.nii.gz",
    channels=("CT",),
    labels={"background": 0, **ORGANS},
    recognise=recognise,
    read=read,
    submission=Submission(
        name=lambda case: f"{case.replace('img', 'label', 1)}.nii.gz",
        where="Synapse, project syn3193805; how it wants the files named is not known to us: here they are called like "
        "the training labels. Ask there before you send them",
    ),
    num_cases=30,
    num_tests=20,
)
