"""Self-configuring biomedical image segmentation: what the command ``autoseg`` does, as functions.

    import autoseg

    run = autoseg.run("my_dataset", out="runs/my_dataset", epochs=100)
    segmentation = autoseg.predict("runs/my_dataset", "scan.nii.gz")

Importing this package imports neither torch nor SimpleITK; the functions do when they need them.
"""

import os
from typing import TYPE_CHECKING, Any

if "OMP_WAIT_POLICY" not in os.environ:
    # Before torch loads OpenMP: its threads wait for each other by spinning, unasked for milliseconds. Where others use
    # the cores too, that doubles the processor time of a prediction (measured 2026-11, 2 cores). This is about 30 µs.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")

if TYPE_CHECKING:
    from collections.abc import Sequence
    from os import PathLike
    from pathlib import Path

    from planners.plan import Plan

__version__ = "0.1.0"
__all__ = ["check", "evaluate", "plan", "predict", "run"]


def run(dataset: "str | PathLike[str] | None" = None, **options: Any) -> "Path":
    """Do the whole job: check, fingerprint, plan, preprocess, train, choose, predict the test images, report.

    Args:
        dataset: the dataset folder or table; or None with ``images`` and ``labels``.
        **options: as on the command line with underscores (``out``, ``budget="8GB"``, ``epochs``, ``folds``,
            ``time_budget="6h"``, ``like``, ``init`` …); see ``options.RunOptions`` and ``data.dataset.DatasetSource``.

    Returns:
        The run folder.

    Raises:
        AutosegError: the dataset, an option or the run folder is at fault; the message says what to do.
    """
    from autoseg import verbs
    from autoseg.options import options_from

    source, chosen = options_from(dataset, options)
    return verbs.run(source, chosen).root


def check(dataset: "str | PathLike[str] | None" = None, **options: Any) -> Any:
    """List every problem of a dataset folder; gives a ``data.check.CheckResult`` and raises none of them."""
    from autoseg import verbs
    from autoseg.options import options_from

    source, _ = options_from(dataset, options)
    return verbs.check(source)


def plan(dataset: "str | PathLike[str] | Sequence[str | PathLike[str]] | None" = None, **options: Any) -> "Plan":
    """Decide topology, patch, batch and the rest, and give the plan.

    Args:
        dataset: the dataset folder or table, or a sequence of several that get one common plan; or None with ``images``
            and ``labels``, or with a ``fingerprint`` file.
        **options: as on the command line with underscores, such as ``like="runs/other"``.

    Raises:
        AutosegError, PlanError: the dataset or an option is at fault, or no plan is possible.
    """
    from autoseg import verbs
    from autoseg.options import options_from

    fingerprint = options.pop("fingerprint", None)
    if fingerprint is not None:
        return verbs.plan_fingerprint(fingerprint, options_from("-", options)[1])
    first, *others = dataset if isinstance(dataset, list | tuple) else [dataset]
    source, chosen = options_from(first, options)
    if others:
        return verbs.plan_together([source, *(options_from(item, {"task": source.task})[0] for item in others)], chosen)
    return verbs.plan(source, chosen)


def predict(model: "str | PathLike[str]", image: Any, **options: Any) -> Any:
    """Segment one image with a trained model.

    Args:
        model: a run folder, ``MODEL.autoseg``, or a model folder or checkpoint of nnU-Net v2.
        image: a path, a ``SimpleITK.Image``, or an array (z, y, x) or (channel, z, y, x) with ``spacing_mm``.
        **options: ``spacing_mm`` (z, y, x) for arrays; ``device``.

    Returns:
        The segmentation in the user's label values, of the same kind as ``image`` (a SimpleITK image for a path).
    """
    from autoseg.inference.predictor import predict as predict_image

    return predict_image(model, image, **options)


def evaluate(predictions: "str | PathLike[str]", labels: "str | PathLike[str]", **options: Any) -> Any:
    """Compare a folder of predictions with a folder of labels.

    Args:
        predictions, labels: folders, or two files.
        **options: ``protocol``, a name such as ``brats2023``; ``metrics``, a sequence such as ``["dice", "nsd@2"]``.

    Returns:
        An ``evaluation.folders.FolderComparison``.

    Raises:
        AutosegError: nothing can be compared, or an option is not known.
    """
    from autoseg import verbs

    return verbs.evaluate(predictions, labels, **options)
