"""Centerline Dice: whether thin, branching structures (vessels, airways, membranes) are connected as they should be.

Needs scikit-image, for this metric alone: ``pip install "autoseg[skeleton]"``.
"""

import numpy as np

from autoseg.errors import OptionError
from autoseg.evaluation.metric_options import MetricOptions
from autoseg.evaluation.pairs import Pair


def cldice(pair: Pair, options: MetricOptions) -> float | None:
    """Measure centerline Dice: how far each mask covers the skeleton of the other; 0 … 1.

    Topology precision is the part of the prediction's skeleton that lies in the label, topology sensitivity the part of
    the label's skeleton that lies in the prediction; their harmonic mean is the metric. A vessel that is too thick or
    too thin costs little, one that is interrupted or invented costs its length. Skeletons are made on the voxel grid,
    whatever the spacing, by thinning (2D: Zhang & Suen 1984; 3D: Lee et al. 1994).

    Empty masks: None where both hold no voxel; 0 where one of them does not. Heeds no option.

    Raises:
        OptionError: scikit-image is not installed.

    Source: Shit et al., clDice: a novel topology-preserving loss function for tubular structure segmentation (2021),
    equations 1 and 2; skeletons by scikit-image, as there.
    """
    del options
    if not pair.has_label and not pair.has_prediction:
        return None
    if not pair.has_label or not pair.has_prediction:
        return 0.0
    label_skeleton, predicted_skeleton = _skeleton(pair.label), _skeleton(pair.prediction)
    precision = float(pair.label[predicted_skeleton].mean())
    sensitivity = float(pair.prediction[label_skeleton].mean())
    return 2 * precision * sensitivity / (precision + sensitivity) if precision + sensitivity else 0.0


def _skeleton(mask: np.ndarray) -> np.ndarray:
    """Thin a mask that holds voxels. What thins away altogether is its own skeleton.

    Some small solids do, such as 2 × 2 × 2 voxels (scikit-image 0.26, found 2026-11).
    """
    try:
        from skimage.morphology import skeletonize
    except ImportError as fault:
        raise OptionError(
            "the metric cldice needs scikit-image, which is not installed. Install it "
            '(pip install "autoseg[skeleton]"), or leave cldice out'
        ) from fault
    found: np.ndarray = skeletonize(mask)
    return found if found.any() else mask
