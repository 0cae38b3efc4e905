"""The table of protocols: ours, and those of public challenges by their organisers' rules.

Where the organisers do not say something it stands in ``unknown``, with what is done instead; nothing is guessed in
silence. Distances are those of ``surface.py`` (DeepMind's surface elements) unless ``differs`` says otherwise.
"""

import dataclasses

from autoseg.evaluation.metric_options import MetricOptions
from autoseg.evaluation.protocol_records import Fallback, Protocol, ProtocolStructure

ZERO_WHERE_ONE_IS_EMPTY = Fallback(label=0.0, prediction=0.0)
ONE_OR_ZERO = Fallback(both=1.0, label=0.0, prediction=0.0)

BRATS_2023_PENALTY_MM = 374.0  # Saluja et al., BraTS-2023-Metrics
BRATS_DIAGONAL_MM = 373.12866  # diagonal of 240 × 240 × 155 mm; nnU-Net's evaluation of BraTS uses this number

FLARE_ORGANS = (  # name, tolerance in mm, labelled slices only; values 1, 2, … in this order; FLARE22_DSC_NSD_Eval.py
    ("liver", 5.0, False),
    ("right kidney", 3.0, False),
    ("spleen", 3.0, False),
    ("pancreas", 5.0, False),
    ("aorta", 2.0, True),
    ("inferior vena cava", 2.0, True),
    ("right adrenal gland", 2.0, False),
    ("left adrenal gland", 2.0, False),
    ("gallbladder", 2.0, False),
    ("esophagus", 3.0, True),
    ("stomach", 5.0, False),
    ("duodenum", 7.0, False),
    ("left kidney", 3.0, False),
)
AMOS_ORGANS = (
    "spleen",
    "right kidney",
    "left kidney",
    "gall bladder",
    "esophagus",
    "liver",
    "stomach",
    "aorta",
    "postcava",
    "pancreas",
    "right adrenal gland",
    "left adrenal gland",
    "duodenum",
    "bladder",
    "prostate/uterus",
)
BTCV_ORGANS = (
    "spleen",
    "right kidney",
    "left kidney",
    "gallbladder",
    "esophagus",
    "liver",
    "stomach",
    "aorta",
    "inferior vena cava",
    "portal vein and splenic vein",
    "pancreas",
    "right adrenal gland",
    "left adrenal gland",
)
MSD_TOLERANCES_MM = {
    "brain": 5.0,
    "heart": 4.0,
    "hippocampus": 1.0,
    "liver": 7.0,
    "lung": 2.0,
    "prostate": 4.0,
    "pancreas": 5.0,
    "colon": 4.0,
    "hepatic-vessel": 3.0,
    "spleen": 3.0,
}
"""Task → tolerance of NSD. They are handed down as those of the challenge paper, whose text could not be read here."""


def _numbered(names: tuple[str, ...]) -> tuple[ProtocolStructure, ...]:
    return tuple(ProtocolStructure(name=name, values=(value,)) for value, name in enumerate(names, start=1))


def _flare(name: str, title: str, script: str, with_tumour: bool) -> Protocol:
    organs = tuple(
        ProtocolStructure(name=organ, values=(value,), tolerance_mm=tolerance, labelled_slices=slices)
        for value, (organ, tolerance, slices) in enumerate(FLARE_ORGANS, start=1)
    )
    tumour = ProtocolStructure(name="tumor", values=(14,), tolerance_mm=2.0, in_mean=False)
    return Protocol(
        name=name,
        title=title,
        sources=(f"https://github.com/JunMa11/FLARE/blob/main/{script}",),
        metrics=("dice", "nsd"),
        structures=(*organs, tumour) if with_tumour else organs,
        fallbacks={"dice": ONE_OR_ZERO, "nsd": ONE_OR_ZERO},
        nsd_zero_below_dice=0.1 if with_tumour else None,
        differs=(
            "the script rounds every value to four digits before it averages; here nothing is rounded",
            "an aorta, vena cava or esophagus labelled in one slice alone makes the script's result nan; here it is "
            "left out",
            "running time and memory, which are ranked too, are not measured",
        ),
    )


def _brats2023(name: str, title: str, dilation: int, min_mm3: float) -> Protocol:
    distance = Fallback(both=0.0, label=BRATS_2023_PENALTY_MM, prediction=BRATS_2023_PENALTY_MM)
    return Protocol(
        name=name,
        title=title,
        sources=(
            "https://github.com/rachitsaluja/BraTS-2023-Metrics",
            "https://www.synapse.org/#!Synapse:syn51156910/discussion/threadId=10357",
        ),
        metrics=("lesion_dice", "lesion_hd95", "dice", "hd95"),
        structures=(
            ProtocolStructure(name="whole tumor", values=(1, 2, 3)),
            ProtocolStructure(name="tumor core", values=(1, 3)),
            ProtocolStructure(name="enhancing tumor", values=(3,)),
        ),
        fallbacks={
            # no lesion that counts, and none found where there is none: the script's mean of nothing becomes 1 and 0
            "lesion_dice": Fallback(both=1.0, prediction=1.0, neither=1.0, label=0.0),
            "lesion_hd95": Fallback(both=0.0, prediction=0.0, neither=0.0, label=BRATS_2023_PENALTY_MM),
            "dice": ONE_OR_ZERO,
            "hd95": distance,
        },
        options=MetricOptions(
            lesion_dilation=dilation, lesion_min_mm3=min_mm3, lesion_penalty_mm=BRATS_2023_PENALTY_MM
        ),
        differs=("sensitivity and specificity of the whole image, reported but not ranked, are not measured",),
    )


def _msd(task: str, tolerance_mm: float) -> Protocol:
    return dataclasses.replace(
        MSD,
        name=f"msd-{task}",
        title=f"Medical Segmentation Decathlon, {task.replace('-', ' ')}",
        options=MetricOptions(tolerance_mm=tolerance_mm),
        variants=(),
    )


MSD = Protocol(
    name="msd",
    title="Medical Segmentation Decathlon",
    sources=("https://doi.org/10.1038/s41467-022-30695-9", "http://medicaldecathlon.com"),
    metrics=("dice", "nsd"),
    fallbacks={"dice": ZERO_WHERE_ONE_IS_EMPTY, "nsd": ZERO_WHERE_ONE_IS_EMPTY},
    variants=tuple(f"msd-{task}" for task in MSD_TOLERANCES_MM),
    unknown=(
        "the tolerances of NSD are handed down as the challenge paper's; its text could not be checked",
        "a structure that neither label nor prediction holds: left out here",
    ),
    differs=("ranks and their significance, by which the challenge orders teams, are not computed",),
)

PROTOCOLS: dict[str, Protocol] = {
    "default": Protocol(
        name="default",
        title="autoseg's own: overlap, surfaces and volume",
        sources=("docs/evaluation.md",),
        metrics=("dice", "iou", "hd95", "assd", "nsd@1", "volume_error"),
        fallbacks=dict.fromkeys(("dice", "iou", "nsd"), ZERO_WHERE_ONE_IS_EMPTY),
    ),
    "nnunet": Protocol(
        name="nnunet",
        title="nnU-Net v2's summary.json",
        sources=("https://github.com/MIC-DKFZ/nnUNet/blob/master/nnunetv2/evaluation/evaluate_predictions.py",),
        metrics=("dice", "iou"),
        fallbacks={"dice": ZERO_WHERE_ONE_IS_EMPTY, "iou": ZERO_WHERE_ONE_IS_EMPTY},
        differs=("a class that is absent everywhere makes nnU-Net's foreground mean nan; here it is left out",),
    ),
    "msd": MSD,
    **{f"msd-{task}": _msd(task, tolerance_mm) for task, tolerance_mm in MSD_TOLERANCES_MM.items()},
    "brats2023": _brats2023("brats2023", "BraTS 2023 glioma, Africa and pediatric, lesion-wise", 3, 50.0),
    "brats2023-men": _brats2023("brats2023-men", "BraTS 2023 meningioma, lesion-wise", 1, 50.0),
    "brats2023-met": _brats2023("brats2023-met", "BraTS 2023 metastases, lesion-wise", 1, 2.0),
    "brats2021": Protocol(
        name="brats2021",
        title="BraTS 2021",
        sources=("https://arxiv.org/abs/2107.02314", "http://braintumorsegmentation.org"),
        metrics=("dice", "hd95", "recall"),
        structures=(
            ProtocolStructure(name="whole tumor", values=(1, 2, 4)),
            ProtocolStructure(name="tumor core", values=(1, 4)),
            ProtocolStructure(name="enhancing tumor", values=(4,)),
        ),
        fallbacks={
            "dice": ONE_OR_ZERO,
            "hd95": Fallback(both=0.0, label=BRATS_DIAGONAL_MM, prediction=BRATS_DIAGONAL_MM),
            "recall": Fallback(both=1.0),
        },
        unknown=(
            "the organisers' values for empty masks: here as nnU-Net evaluates BraTS, Dice 1 and HD95 0 where both are "
            "empty, 0 and 373.12866 mm (the image's diagonal) where one is",
            "recall (the organisers' sensitivity) where the label alone is empty: left out here",
        ),
        differs=("specificity, reported but not ranked, is not measured",),
    ),
    "kits23": Protocol(
        name="kits23",
        title="KiTS23: hierarchical evaluation classes",
        sources=(
            "https://github.com/neheller/kits23/blob/main/kits23/evaluation/metrics.py",
            "https://github.com/neheller/kits23/blob/main/kits23/configuration/labels.py",
        ),
        metrics=("dice", "nsd"),
        structures=(
            ProtocolStructure(name="kidney and mass", values=(1, 2, 3), tolerance_mm=1.0330772532390826),
            ProtocolStructure(name="mass", values=(2, 3), tolerance_mm=1.1328796488598762),
            ProtocolStructure(name="tumor", values=(2,), tolerance_mm=1.1498198361434828),
        ),
        fallbacks={"dice": ONE_OR_ZERO, "nsd": ONE_OR_ZERO},
        differs=(
            "the script takes the prediction's spacing, here the label's is taken; grids that differ are refused",
        ),
    ),
    "flare": _flare("flare", "FLARE23 (also: flare22, flare23)", "FLARE23/FLARE23_DSC_NSD_Eval.py", True),
    "flare22": _flare("flare22", "FLARE22", "FLARE22/Evaluation/FLARE22_DSC_NSD_Eval.py", False),
    "flare23": _flare("flare23", "FLARE23", "FLARE23/FLARE23_DSC_NSD_Eval.py", True),
    "amos": Protocol(
        name="amos",
        title="AMOS22",
        sources=("https://amos22.grand-challenge.org/Evaluation/",),
        metrics=("dice", "nsd"),
        structures=_numbered(AMOS_ORGANS),
        fallbacks={"dice": ZERO_WHERE_ONE_IS_EMPTY, "nsd": ZERO_WHERE_ONE_IS_EMPTY},
        average="values",
        unknown=(
            "the tolerance of NSD: 1 mm here (--metrics dice,nsd@2 for another)",
            "an organ that neither label nor prediction holds: left out here",
            "an organ that one of them holds: 0 here",
        ),
        differs=("the ranks of the test phase are not computed",),
    ),
    "acdc": Protocol(
        name="acdc",
        title="ACDC: heart, end of diastole and of systole",
        sources=(
            "https://www.creatis.insa-lyon.fr/Challenge/acdc/evaluation.html",
            "https://github.com/baumgach/acdc_segmenter/blob/master/metrics_acdc.py",
        ),
        metrics=("dice", "border_hd", "volume_error"),
        structures=(
            ProtocolStructure(name="right ventricle", values=(1,)),
            ProtocolStructure(name="myocardium", values=(2,)),
            ProtocolStructure(name="left ventricle", values=(3,)),
        ),
        fallbacks={"dice": ONE_OR_ZERO, "border_hd": Fallback(both=0.0)},
        unknown=(
            "what the organisers' server gives for empty masks: here as the published script does (Dice 1 and HD 0 "
            "where both are empty, Dice 0 where one is)",
            "HD where one mask is empty: the script sets 1 mm and warns of it; left out here",
        ),
        differs=(
            "the two phases are averaged together; the case names tell them apart in the CSV",
            "volume errors are in mm³, not ml; ejection fraction and its correlation are not computed",
        ),
    ),
    "lits": Protocol(
        name="lits",
        title="LiTS: liver and its tumors",
        sources=("https://github.com/PatrickChrist/lits-challenge-scoring",),
        metrics=("dice", "pooled_dice"),
        structures=(
            ProtocolStructure(name="liver", values=(1, 2)),
            ProtocolStructure(name="tumor", values=(2,)),
        ),
        fallbacks={"dice": ONE_OR_ZERO},
        unknown=(
            "Dice per case where both masks are empty: the stored versions of the script leave it to MedPy, scripts "
            "made from it set 1; 1 here",
        ),
        differs=(
            "detection at an overlap over a half, surface distances of detected tumors and the tumor burden are not "
            "computed",
        ),
    ),
    "promise12": Protocol(
        name="promise12",
        title="PROMISE12: prostate",
        sources=("https://doi.org/10.1016/j.media.2013.12.002", "https://promise12.grand-challenge.org"),
        metrics=("dice", "relative_volume_error", "assd", "hd95"),
        structures=(ProtocolStructure(name="prostate", values=(1,)),),
        fallbacks={"dice": ZERO_WHERE_ONE_IS_EMPTY},
        unknown=(
            "the metrics' definitions are handed down as the paper's; its text could not be checked",
            "distances where the prediction is empty: left out here",
        ),
        differs=(
            "base and apex, the outer thirds of the prostate, are not measured apart",
            "the score that maps each metric onto 0 … 100 by a second observer is not computed",
            "the challenge takes the magnitude of the relative volume difference in percent; here it has its sign",
        ),
    ),
    "isbi2012": Protocol(
        name="isbi2012",
        title="ISBI 2012: membranes in electron microscopy, semantic part",
        sources=("http://brainiac2.mit.edu/isbi_challenge/evaluation",),
        metrics=("dice", "iou", "pooled_dice"),
        fallbacks={"dice": ONE_OR_ZERO, "iou": ONE_OR_ZERO},
        unknown=(
            "which of the two classes the challenge's F-score of pixels counts: both stand where both are declared",
        ),
        differs=(
            "the challenge's rank is by V_rand and V_info of the cells after thinning of their borders, for which "
            "probability maps are sent in; neither is computed. Its former pixel error is 1 − the best F-score over "
            "thresholds; here Dice (the same F-score) is that of the segmentation as it is",
        ),
    ),
    "btcv": Protocol(
        name="btcv",
        title="BTCV: Beyond the Cranial Vault, abdomen",
        sources=("https://www.synapse.org/#!Synapse:syn3193805/wiki/217752",),
        metrics=("dice", "assd", "hd"),
        structures=_numbered(BTCV_ORGANS),
        fallbacks={"dice": ZERO_WHERE_ONE_IS_EMPTY},
        unknown=(
            "the organisers' values for empty masks: left out where both are empty, Dice 0 where one is, no distance",
            "the metrics are handed down as the organisers'; how they take surfaces, their pages do not say",
        ),
    ),
}
"""Every protocol by its name."""
