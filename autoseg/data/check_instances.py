"""Objects across the cases of a dataset: recognise ids that nobody declared, and masks that are no ids."""

import dataclasses
from collections import Counter
from collections.abc import Sequence

import numpy as np

from autoseg.data.cases import Dataset
from autoseg.data.check_case import CaseFacts
from autoseg.data.check_problem import Problem, count, problem
from autoseg.data.instance_labels import OBJECT_LABELS
from planners.labels import Labels

MANY_INSTANCES = 10
"""Fewer label values than this are classes (assumption)."""

MASK_PIECES = 3
"""One id in so many pieces is a mask of several objects (assumption: an object drawn with a stray voxel is in two). Not
where an ignore label may cut objects; then it is a warning at most."""

TORN_FRACTION = 0.1
"""A map with more of its ids in pieces than this is warned of; not where an ignore label may cut objects."""


def looks_like_ids(facts: Sequence[CaseFacts]) -> str:
    """Recognise ids of objects: values that occur in one case each, or single pieces whose number varies.

    Args:
        facts: of cases whose labels were read as classes.

    Returns:
        What was found, in words; empty where the values are classes.
    """
    annotated = [case.label for case in facts if case.label is not None and not case.label.looks_like_image]
    values = [{value for value, _ in label.values if value != 0} for label in annotated]
    numbers = [len(found) or label.num_values - 1 for found, label in zip(values, annotated, strict=True)]
    counts = Counter(value for found in values for value in found)
    different = max(len(counts), *numbers, 0)
    if different < MANY_INSTANCES:
        return ""
    once = sum(number == 1 for number in counts.values())
    owners = sum(any(counts[value] == 1 for value in found) for found in values)
    in_one_each = len(annotated) > 3 and once >= 0.8 * different and 2 * owners >= len(annotated)
    alike = [label.looks_like_instances for label in annotated if label.num_values > 1]
    varying = len(numbers) == 1 or float(np.std(numbers)) >= 0.25 * float(np.mean(numbers))
    if not (in_one_each or (2 * sum(alike) >= len(alike) and varying)):
        return ""
    span = f"{min(numbers):,}" if len(set(numbers)) == 1 else f"{min(numbers):,} to {max(numbers):,}"
    where = f"{once:,} of them in one case only"
    return f"{different:,} label values, {span} a case, {where}: they look like numbers of objects"


def declare_instances(labels: Labels) -> str:
    """Say what to do about ids in a dataset whose labels are declared as classes."""
    names = ", ".join(f'"{name}"' for name in labels.names[1:])
    return f'If they number objects, declare "instances": [{names}] in dataset.json, or give --task instance'


def settle_task(dataset: Dataset, facts: Sequence[CaseFacts]) -> Dataset:
    """Decide whether labels that nobody declared are ids, from what the cases hold when read as classes.

    Returns:
        The dataset as it was; or, where the maps look like ids of objects, with the labels for them and a note. The
        cases must then be read again, with these labels.
    """
    if dataset.labels is not None or dataset.task != "auto":
        return dataset
    found = looks_like_ids([case for case in facts if not case.test])
    if not found:
        return dataset
    note = (
        f"{found}, and are taken as ids of one class, {OBJECT_LABELS.instance_classes[0]}. Declare labels and "
        "instances in dataset.json to name it; give --task semantic if they are classes"
    )
    return dataclasses.replace(dataset, labels=OBJECT_LABELS, notes=(*dataset.notes, note))


def check_objects(facts: Sequence[CaseFacts], labels: Labels) -> list[Problem]:
    """Look for masks given as ids, ids in pieces, and maps without objects."""
    known = [(case, case.objects) for case in facts if case.objects is not None]
    filled = [(case, objects) for case, objects in known if objects.num_objects]
    if known and not filled:
        return [problem("no-foreground", None, f"{count(len(known), 'map')} of ids hold no object")]
    problems = [
        problem("no-objects", case.id, f"the map of ids holds no object ({case.id_file})")
        for case, objects in known
        if not objects.num_objects
    ]
    most = len(labels.instance_classes)  # a mask of several classes has one value for each
    torn = sum(objects.most_pieces >= MASK_PIECES for _, objects in filled)
    few = filled and labels.ignore is None and all(objects.num_objects <= most for _, objects in filled)
    if few and 2 * torn >= len(filled):
        held = "one id" if most == 1 else f"no more ids than there are classes ({most})"
        found = (
            f"the map of ids holds {held}, in {filled[0][1].most_pieces} pieces"
            if len(filled) == 1
            else f"all {len(filled)} maps of ids with objects hold {held}, {torn} in {MASK_PIECES} pieces or more"
        )
        return [*problems, problem("mask-as-instances", None, found)]
    for case, objects in filled:
        where = f"({case.id_file})"
        if objects.num_objects <= most and objects.most_pieces >= MASK_PIECES:
            found = f"the map of ids holds id {objects.torn_id} alone, in {objects.most_pieces} pieces {where}"
            problems.append(problem("mask-like-ids", case.id, found))
        elif labels.ignore is None and objects.num_in_pieces > max(1.0, TORN_FRACTION * objects.num_objects):
            found = (
                f"{objects.num_in_pieces} of {count(objects.num_objects, 'id')} are in pieces, such as id "
                f"{objects.torn_id} in {objects.most_pieces} {where}"
            )
            problems.append(problem("ids-in-pieces", case.id, found))
    return problems
