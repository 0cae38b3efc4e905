"""Objects on the page: counts and curves equal the measured ones, pictures show what became of which object."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from autoseg.data.image import Geometry
from autoseg.data.io import write_segmentation
from autoseg.evaluation.contingency import contingency
from autoseg.evaluation.instance_errors import INVENTED, MERGED, MISSED, RIGHT, SPLIT
from autoseg.report.material import gather
from autoseg.report.object_charts import count_chart, kinds_by_size, overlap_by_size, size_bins, threshold_curve
from autoseg.report.object_facts import KINDS, ImageRow, image_rows, kind_counts, length_unit
from autoseg.report.object_pictures import draw_objects
from autoseg.report.object_statistics import decode_text, statistics_rows
from autoseg.report.object_views import (
    Fate,
    centres,
    choose_slice,
    enlarged_parts,
    errors_within,
    object_paths,
    object_views,
    objects_per_slice,
    pixels_of,
)
from autoseg.report.opened_objects import open_objects
from autoseg.report.outlines import area, outline
from autoseg.report.slices import Slice
from autoseg.run_folder import RunFolder
from planners.labels import LabelClass, Labels

PLACE = {kind: place for place, kind in enumerate(KINDS)}


def test_rows_equal_what_was_measured(make_object_run: Callable[..., RunFolder]) -> None:
    results = gather(make_object_run()).instances
    assert results is not None
    comparison = results.comparison
    rows = image_rows(results)
    assert [row.f1 for row in rows] == sorted((row.f1 for row in rows), reverse=True)
    scores = {case.case: case.scores[0].values for case in comparison.cases}
    for row in rows:
        values = dict(zip(comparison.metrics, scores[row.case], strict=True))
        assert row.f1 == pytest.approx(values["f1@0.5"], abs=1e-12)
        assert row.ap == pytest.approx(values["ap"], abs=1e-12)
        assert sum(row.labelled.values()) == row.num_labelled
        assert sum(row.predicted.values()) == row.num_predicted
        assert row.labelled[RIGHT] == row.predicted[RIGHT]
    labelled, predicted = kind_counts(rows)
    assert labelled.total() == comparison.totals[0].num_labelled
    assert all(labelled[kind] for kind in (RIGHT, MERGED, SPLIT, MISSED))
    assert all(predicted[kind] for kind in (RIGHT, MERGED, SPLIT, INVENTED))


def test_curve_goes_through_the_measured_means(make_object_run: Callable[..., RunFolder]) -> None:
    results = gather(make_object_run()).instances
    assert results is not None
    curve = str(threshold_curve(results.comparison))
    means = {
        name: item.mean.mean
        for name, item in zip(results.comparison.metrics, results.comparison.totals[0].metrics, strict=True)
        if item.mean is not None
    }
    assert f"F1 0.5: {means['f1@0.5']:.3f}" in curve
    assert f"AP 0.5: {means['ap@0.5']:.3f}" in curve
    assert f"0.75: {means['ap@0.75']:.3f}" in curve


def test_errors_in_words_count_labelled_objects_and_what_was_invented() -> None:
    row = ImageRow(
        case="a", f1=0.5, ap=0.2, num_labelled=9, num_predicted=8,
        labelled={RIGHT: 4, MERGED: 2, MISSED: 3}, predicted={RIGHT: 4, MERGED: 1, INVENTED: 3},
    )  # fmt: skip
    assert row.errors == "2 merged, 3 missed, 3 invented"
    assert replace(row, labelled={RIGHT: 9}, predicted={RIGHT: 9}).errors == "no error"
    assert replace(row, labelled={RIGHT: 9}, predicted={RIGHT: 9, SPLIT: 2}, surplus=2).errors == "2 surplus pieces"


@pytest.mark.parametrize("diameters", [[3.0], [4.0] * 50, np.geomspace(2, 90, 300), [1.0, 1.0, 400.0] * 20])
def test_every_object_is_in_one_bin(diameters: list[float]) -> None:
    values = np.array(diameters)
    bins = size_bins(values)
    assert bins is not None
    assert sorted(np.concatenate(bins.members).tolist()) == list(range(len(values)))
    assert len(bins.edges) == len(bins.members) + 1
    for place, members in enumerate(bins.members[1:-1], start=1):
        assert ((values[members] >= bins.edges[place]) & (values[members] < bins.edges[place + 1])).all()


def test_charts_by_size_say_how_many_are_right(make_object_run: Callable[..., RunFolder]) -> None:
    results = gather(make_object_run()).instances
    assert results is not None
    diameters = np.array([value for item in results.objects for value in item.label_diameters])
    bins = size_bins(diameters)
    assert bins is not None
    drawn = str(kinds_by_size(results, bins, "pixels"))
    kinds = np.array([kind for item in results.objects for kind in item.label_errors])
    first = bins.members[0]
    assert f"{(kinds[first] == RIGHT).sum()} of {len(first)} right" in drawn
    assert "median" in str(overlap_by_size(results, bins, "pixels"))
    assert "in 0 the counts are equal" in str(
        count_chart([ImageRow(case="a", f1=0, ap=0, num_labelled=3, num_predicted=0)])
    )


def test_slices_and_centres_equal_slow_ones() -> None:
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 7, (4, 9, 11))
    wanted = rng.random(7) < 0.6
    for axis in range(3):
        slow = [len({v for v in np.unique(ids.take(i, axis=axis)) if wanted[v]}) for i in range(ids.shape[axis])]
        assert objects_per_slice(ids, wanted, axis).tolist() == slow
    found = centres(ids[0])
    slow_centres = [np.argwhere(ids[0] == value).mean(axis=0) for value in np.unique(ids[0]) if value]
    np.testing.assert_allclose(found, slow_centres)
    assert centres(np.zeros((3, 3), dtype=int)).shape == (0, 2)


def planted() -> tuple[Slice, Fate]:
    """One right, one missed, one split, two merged and one invented object on 200 × 200 pixels."""
    label, prediction = np.zeros((2, 200, 200), dtype=np.int32)
    label[10:20, 10:20] = prediction[10:20, 10:20] = 1  # right
    label[150:160, 20:30] = 2  # missed
    label[100:110, 150:170] = 3  # split
    prediction[100:110, 150:160], prediction[100:110, 160:170] = 2, 3
    label[20:30, 150:160], label[20:30, 160:170] = 4, 5  # merged
    prediction[20:30, 150:170] = 4
    prediction[180:190, 150:160] = 5  # invented
    fate = Fate(
        label=np.array([-1, PLACE[RIGHT], PLACE[MISSED], PLACE[SPLIT], PLACE[MERGED], PLACE[MERGED]]),
        prediction=np.array([-1, PLACE[RIGHT], PLACE[SPLIT], PLACE[SPLIT], PLACE[MERGED], PLACE[INVENTED]]),
        surplus=np.zeros(6, dtype=bool),
    )
    nothing = np.zeros(label.shape, dtype=bool)
    return Slice(np.zeros((1, 200, 200), np.uint8), label, prediction, nothing, (1.0, 1.0)), fate


def test_every_object_is_drawn_by_its_fate() -> None:
    cut, fate = planted()
    paths = dict(object_paths(cut, fate))
    assert paths["area missed"] == area(cut.label_YX == 2)
    assert paths["object missed"] == outline((cut.label_YX == 2).astype(int))
    assert paths["object right"] == outline((cut.prediction_YX == 1).astype(int))
    assert paths["object merged"] == outline((cut.prediction_YX == 4).astype(int))
    assert paths["object invented"] == outline((cut.prediction_YX == 5).astype(int))
    assert "M160 100v10" in paths["object split"], "between the pieces"
    assert "M160 20v10" in paths["labelled"], "between those that were merged"


def test_parts_are_enlarged_where_most_is_wrong() -> None:
    cut, fate = planted()
    parts = enlarged_parts(cut, fate, 4)
    assert len(parts) == 4
    rows, columns = parts[0]
    assert rows.start <= 20 < 30 <= rows.stop, "two were merged there"
    assert columns.start <= 150 < 170 <= columns.stop
    middles = [((r.start + r.stop) / 2, (c.start + c.stop) / 2) for r, c in parts]
    apart = [max(abs(a - c), abs(b - d)) for i, (a, b) in enumerate(middles) for c, d in middles[:i]]
    assert min(apart) > 20
    right = Fate(np.zeros(6, dtype=int), np.zeros(6, dtype=int), np.zeros(6, dtype=bool))
    assert enlarged_parts(cut, right, 4) == ()
    small = cut.part(slice(0, 40), slice(140, 180))
    assert enlarged_parts(small, fate, 4) == ()


def test_the_ignore_value_and_classes_nobody_annotated(make_object_run: Callable[..., RunFolder]) -> None:
    """What the page draws is what was measured: id 7 of a prediction is an object, and nobody annotated the cells."""
    labels = Labels(
        classes=tuple(LabelClass(name=name, value=i) for i, name in enumerate(("none", "cell"))),
        instance_classes=("cell",),
        ignore=7,
    )
    run = make_object_run(num_cases=1, num_folds=1, configurations=("2d_boundary",), labels=labels, measured=False)
    material = gather(run)
    assert material.record is not None
    (case,) = material.record.cases
    shape = (1, 96, 128)
    ids = np.zeros(shape, dtype=np.uint16)
    for number in range(1, 11):
        ids[0, 10:20, 10 * number : 10 * number + 8] = number
    geometry = Geometry(spacing_mm=(1.0, 1.0, 1.0), dimensions=2)
    write_segmentation(Path(str(case.label)), np.where(ids == 7, 77, ids), geometry)
    write_segmentation(next(run.out_of_fold.glob("*.tif")), ids, geometry)
    opened = open_objects(material, case.id)
    assert [KINDS[place] for place in opened.prediction_kinds[1:]] == [RIGHT] * 10
    record = replace(material.record, cases=(replace(case, annotated_classes=(0,)),))
    unknown = open_objects(replace(material, record=record), case.id)
    assert (unknown.prediction_kinds == -1).all(), "they may be there or not"


def test_pieces_beside_a_partner_are_wrong(make_object_run: Callable[..., RunFolder]) -> None:
    """An object found, and a piece of it cut off: the label calls it right, F1 does not."""
    run = make_object_run(num_cases=1, num_folds=1, configurations=("2d_boundary",), shape=(1, 64, 64))
    material = gather(run)
    assert material.record is not None
    (case,) = material.record.cases
    label, found = np.zeros((2, 1, 64, 64), dtype=np.uint16)
    label[0, 10:20, 10:30], found[0, 10:20, 10:24], found[0, 10:20, 24:30] = 1, 1, 2
    label[0, 40:50, 10:20] = found[0, 40:50, 10:20] = 3
    geometry = Geometry(spacing_mm=(1.0, 1.0, 1.0), dimensions=2)
    write_segmentation(Path(str(case.label)), label, geometry)
    write_segmentation(next(run.out_of_fold.glob("*.tif")), found, geometry)
    opened = open_objects(material, case.id)
    assert opened.surplus.tolist() == [False, False, True, False]
    nothing = np.zeros((64, 64), dtype=bool)
    cut = Slice(np.zeros((1, 64, 64), np.uint8), opened.label[0], opened.prediction[0], nothing, (1.0, 1.0))
    fate = Fate(opened.label_kinds, opened.prediction_kinds, opened.surplus)
    assert errors_within(cut, fate) == "1 surplus piece"
    assert choose_slice(opened, fate, 0, by_error=True) == (0, "most wrong objects")


def test_colours_keep_their_hue_and_channels_get_a_window_each() -> None:
    rng = np.random.default_rng(0)
    colours = rng.integers(0, 60, (3, 20, 20)).astype(np.uint8)
    seen = pixels_of(colours).astype(float)
    assert seen.max() == 255
    assert np.corrcoef(seen.ravel(), colours.ravel())[0, 1] > 0.999
    channels = np.stack([colours[0], colours[1] * np.uint16(900), colours[2]]).astype(np.uint16)
    assert [plane.max() for plane in pixels_of(channels)] == [255, 255, 255]
    assert pixels_of(rng.normal(size=(2, 5, 5))).shape == (1, 5, 5)


def test_opened_objects_have_the_errors_that_were_measured(make_object_run: Callable[..., RunFolder]) -> None:
    material = gather(make_object_run())
    assert material.instances is not None
    for facts in material.instances.objects:
        case = open_objects(material, facts.case)
        assert [KINDS[place] for place in case.label_kinds[1:]] == list(facts.label_errors)
        assert [KINDS[place] for place in case.prediction_kinds[1:]] == list(facts.prediction_errors)
        assert case.surplus.sum() == facts.surplus
        assert contingency(case.label, case.prediction).num_labelled == len(facts.label_errors)


def test_pictures_of_objects(make_object_run: Callable[..., RunFolder]) -> None:
    material = gather(make_object_run(shape=(1, 160, 160)))
    pictures = draw_objects(material)
    assert [item.rank for item in pictures] == ["best", "median", "worst", "second worst", "third worst"]
    for picture in pictures:
        assert (picture.problem, picture.note) == ("", "")
        assert picture.views[0].image.startswith("data:image/png;base64,")
    assert pictures[0].value == "F1 1.000"
    assert len(pictures[0].views) == 1, "nothing is wrong in it"
    worst = pictures[2]
    assert worst.layout == "enlarged"
    assert len(worst.views) == 3
    assert worst.views[0].place.count("z") == 2
    assert worst.views[0].paths[-1][0] == "place"
    assert "part 1: " in worst.views[1].caption


def test_of_a_volume_the_slice_with_most_objects_is_drawn(make_object_run: Callable[..., RunFolder]) -> None:
    material = gather(make_object_run(num_cases=3, shape=(8, 40, 40), ending=".nii.gz"))
    case = open_objects(material, "case_002")
    view = object_views(case, 0, by_error=False, enlarged=0)[0]
    counts = [len(np.unique(plane)) - 1 for plane in case.label]
    assert f"slice {int(np.argmax(counts)) + 1} of 8 along z, most objects" in view.caption


def test_facts_and_settings_in_words(make_object_run: Callable[..., RunFolder]) -> None:
    material = gather(make_object_run(num_cases=3))
    rows = {title: (value, because) for title, value, because in statistics_rows(material)}
    assert rows["diameter"][0] == "14 pixels; 90 % between 9.5 and 21"
    assert rows["touching"][0] == "18.4 %"
    assert rows["by case"] == ("12 to 16 pixels", "the median diameter of a case; they differ by up to 1.3 times")
    assert "in 3 cases" in rows["objects"][0]
    assert decode_text({"smallest": 20, "foreground": 0.45, "new": True}) == (
        "foreground above 0.45, no object below 20 voxels as trained, new True"
    )
    assert material.fingerprint is not None
    measured = replace(material, fingerprint=replace(material.fingerprint, spacings_mm=((900.0, 0.5, 0.5),) * 3))
    assert length_unit(measured) == "mm"
    assert statistics_rows(replace(material, fingerprint=None)) == ()
