"""Partition: how far two divisions of the same voxels into objects agree, without matching objects.

Used where objects touch everywhere, as neurons in electron microscopy do. Only voxels of the label's objects count. Of
those, each that the prediction leaves to the background is an object of its own there: thin background between objects
then costs little, and giving everything up is no merge. Several images count as one in which no object of one is in
another, so the parts below add up.
"""

import numpy as np

from autoseg.evaluation.contingency import Contingency
from autoseg.evaluation.matching import Parts


def adapted_rand_error(table: Contingency) -> Parts:
    """One minus the F1 of pairs of voxels that lie together: 1 − 2 Σ p_ij² / (Σ a_i² + Σ b_j²); 0 … 1, 0 is best.

    p_ij: voxels that label object i shares with prediction object j; a_i: voxels of label object i; b_j: those of
    prediction object j that lie on objects of the label. A voxel and itself are a pair, too.

    Label empty: not defined, whatever the prediction holds. Prediction empty: all voxels are alone, 1 − 2 / (mean size
    of the object a voxel lies in + 1).

    scikit-image's ``adapted_rand_error`` gives other numbers: there the background of the prediction is one object, and
    a voxel is no pair with itself. So does CREMI's Python code, which divides its term for the background by the number
    of voxels, but not the other sums: its background counts as nothing.

    Source: Arganda-Carreras et al., Crowdsourcing the creation of image segmentation algorithms for connectomics
    (2015), evaluation; the SNEMI3D challenge, whose error this is.
    """
    num_alone = float(table.label_alone.sum())
    both = float((table.shared.astype(np.float64) ** 2).sum()) + num_alone
    labelled = float((table.label_sizes.astype(np.float64) ** 2).sum())
    predicted = float((table.predicted_on_label.astype(np.float64) ** 2).sum()) + num_alone
    return Parts(labelled + predicted - 2 * both, labelled + predicted)


def voi_split(table: Contingency) -> Parts:
    """Bits that are needed to tell in which object of the prediction a voxel lies, once that of the label is known.

    The conditional entropy H(prediction | label), per voxel of the label's objects: what cutting objects costs; from 0,
    which is best. A voxel that the prediction leaves to the background is an object of its own.

    Label empty: not defined. Prediction empty: the mean of log₂ of the size of the object a voxel lies in.

    scikit-image's ``variation_of_information`` with ``ignore_labels=(0,)``, and CREMI's, keep the prediction's
    background as one object: they agree where it holds no voxel of the label's objects.

    Source: Meilă, Comparing clusterings (2007), section 3; Arganda-Carreras et al. (2015) for the background.
    """
    sizes = table.label_sizes.astype(np.float64)
    shared = table.shared.astype(np.float64)
    inside = (shared * np.log2(sizes[table.label_index] / shared)).sum()
    alone = (table.label_alone * np.log2(sizes)).sum()
    return Parts(float(inside + alone), int(table.label_sizes.sum()))


def voi_merge(table: Contingency) -> Parts:
    """Bits that are needed to tell in which object of the label a voxel lies, once that of the prediction is known.

    The conditional entropy H(label | prediction): what joining objects costs; from 0, which is best. Otherwise as
    ``voi_split``. Label empty: not defined. Prediction empty: 0.
    """
    sizes = table.predicted_on_label.astype(np.float64)
    shared = table.shared.astype(np.float64)
    inside = (shared * np.log2(sizes[table.prediction_index] / shared)).sum()
    return Parts(float(inside), int(table.label_sizes.sum()))


def voi(table: Contingency) -> Parts:
    """Variation of information in bits: ``voi_split`` + ``voi_merge``. Label empty: not defined."""
    split, merge = voi_split(table), voi_merge(table)
    return Parts(split.top + merge.top, split.bottom)
