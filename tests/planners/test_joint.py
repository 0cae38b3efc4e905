"""Several datasets as one: what is put together, how intensities are pooled, what does not fit together."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from planners import PLANNERS, Channel, Fingerprint, Intensities, LabelClass, Labels, MemoryBudget, PlanError, Region
from planners.joint import explain_join, join, join_labels
from planners.transfer import adapt_labels

MakeFingerprint = Callable[..., Fingerprint]


def labels(ignore: int | None = None, **values: int) -> Labels:
    return Labels(classes=tuple(LabelClass(name=name, value=value) for name, value in values.items()), ignore=ignore)


def statistics(samples: np.ndarray) -> Intensities:
    low, median, high = np.percentile(samples, [0.5, 50, 99.5])
    return Intensities(
        mean=float(samples.mean()),
        median=float(median),
        std=float(samples.std()),
        minimum=float(samples.min()),
        maximum=float(samples.max()),
        percentile_00_5=float(low),
        percentile_99_5=float(high),
    )


def test_cases_are_put_side_by_side(make_fingerprint: MakeFingerprint) -> None:
    one = make_fingerprint(dataset="a", num_cases=2, case_ids=("x", "y"), spacings_mm=((1.0, 1.0, 1.0),) * 2,
                           shapes=((9, 9, 9),) * 2, cropped_fraction=0.5)  # fmt: skip
    two = make_fingerprint(dataset="b", num_cases=6, case_ids=("x",), spacings_mm=((2.0, 1.0, 1.0),),
                           shapes=((8, 8, 8),), orientations=("SPL",))  # fmt: skip
    both = join([one, two])
    assert (both.dataset, both.num_cases, both.case_ids) == ("a + b", 8, ("a/x", "a/y", "b/x"))
    assert both.spacings_mm == ((1.0, 1.0, 1.0), (1.0, 1.0, 1.0), (2.0, 1.0, 1.0))
    assert both.shapes == ((9, 9, 9), (9, 9, 9), (8, 8, 8))
    assert both.cropped_fraction == pytest.approx((2 * 0.5 + 6 * 1.0) / 8)
    assert both.orientations == (None, None, "SPL")


def test_one_dataset_is_itself(make_fingerprint: MakeFingerprint) -> None:
    assert join([make_fingerprint()]) == make_fingerprint()


def test_moments_are_pooled_exactly(make_fingerprint: MakeFingerprint) -> None:
    """Against the statistics of the samples themselves, each case giving as many."""
    rng = np.random.default_rng(0)
    samples = [rng.normal(mean, spread, 2000 * cases) for mean, spread, cases in ((10, 2, 3), (40, 5, 1))]
    parts = [
        make_fingerprint(dataset=name, num_cases=cases, channels=(Channel(name="CT", intensities=statistics(sample)),))
        for name, cases, sample in zip("ab", (3, 1), samples, strict=True)
    ]
    pooled = join(parts).channels[0].intensities
    truth = statistics(np.concatenate(samples))
    assert pooled is not None
    for field in ("mean", "std", "minimum", "maximum"):
        assert getattr(pooled, field) == pytest.approx(getattr(truth, field), rel=1e-9)
    first, second = (part.channels[0].intensities for part in parts)
    assert first is not None
    assert second is not None
    assert pooled.percentile_99_5 == pytest.approx((3 * first.percentile_99_5 + second.percentile_99_5) / 4)
    without = make_fingerprint(dataset="c", channels=(Channel(name="CT"),))
    assert join([*parts, without]).channels[0].intensities == pooled


def test_classes_of_equal_name_are_one() -> None:
    one = labels(background=0, liver=1, tumour=2)
    two = labels(background=0, spleen=1, liver=7, ignore=2)
    both = join_labels({"a": one, "b": two})
    assert {item.name: item.value for item in both.classes} == {"background": 0, "liver": 1, "tumour": 2, "spleen": 3}
    assert both.ignore == 4, "2 is a class now"


def test_what_was_measured_per_class_follows_the_names(make_fingerprint: MakeFingerprint) -> None:
    one = make_fingerprint(dataset="a", labels=labels(background=0, liver=1, spleen=2), spacings_mm=((1, 1, 1),),
                           shapes=((9, 9, 9),), class_voxels=((10, 20, 30),))  # fmt: skip
    two = make_fingerprint(dataset="b", labels=labels(background=0, spleen=1), spacings_mm=((1, 1, 1),),
                           shapes=((9, 9, 9),), class_voxels=((5, 6),))  # fmt: skip
    assert join([one, two]).class_voxels == ((10, 20, 30), (5, None, 6))
    bare = make_fingerprint(dataset="c", labels=labels(background=0, spleen=1))
    assert join([one, bare]).class_voxels == ()


def test_regions_are_one_where_they_hold_the_same() -> None:
    def regional(**values: int) -> Labels:
        classes = labels(**values).classes
        return Labels(classes=classes, regions=(Region(name="whole", values=(values["core"], values["rim"])),))

    both = join_labels({"a": regional(background=0, core=1, rim=2), "b": regional(background=0, rim=1, core=2)})
    assert both.regions == (Region(name="whole", values=(1, 2)),)
    other = Labels(classes=labels(background=0, core=1, rim=2).classes, regions=(Region(name="whole", values=(2,)),))
    with pytest.raises(PlanError, match="region whole of b holds other classes than before"):
        join_labels({"a": regional(background=0, core=1, rim=2), "b": other})
    with pytest.raises(PlanError, match="a and b: only one declares regions"):
        join_labels({"a": other, "b": labels(background=0, core=1, rim=2)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"channels": (Channel(name="CT"),)},
            r"hippocampus and other have different channels \(MRI; CT\). A common plan needs the same channels",
        ),
        ({"channels": (Channel(name="MRI"), Channel(name="CT"))}, r"\(MRI; MRI, CT\)"),
        ({"labels": labels(nothing=0, a=1)}, "call their background background and nothing"),
        ({"dataset": "hippocampus"}, "the same name: hippocampus, hippocampus"),
    ],
)
def test_what_does_not_fit_together(make_fingerprint: MakeFingerprint, change: Any, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        join([make_fingerprint(), make_fingerprint(**{"dataset": "other", **change})])


def test_what_was_done_is_said(make_fingerprint: MakeFingerprint) -> None:
    one = make_fingerprint(dataset="a", labels=labels(background=0, liver=1))
    two = make_fingerprint(dataset="b", labels=labels(background=0, spleen=1))
    text = {reason.about: reason.because for reason in explain_join([one, two])}
    assert text["labels"] == "3 classes by name; new values: spleen of b 1 → 2"
    assert "a 208, b 208" in text["plan.json"]
    assert "median and percentiles as the mean" in text["channels"]


def test_the_common_plan_serves_each_dataset(make_fingerprint: MakeFingerprint) -> None:
    one = make_fingerprint(dataset="a", labels=labels(background=0, liver=1))
    two = make_fingerprint(dataset="b", labels=labels(background=0, spleen=1, liver=2), shapes=((80, 90, 100),) * 208)
    plan = PLANNERS["default"](join([one, two]), MemoryBudget())
    for fingerprint in (one, two):
        own = adapt_labels(plan, fingerprint)
        assert own.labels == fingerprint.labels
        for item in own.configurations:
            assert item.architecture == plan.configuration(item.name).architecture
            assert item.target.num_outputs == fingerprint.labels.num_classes
