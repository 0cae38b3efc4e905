"""What the check says of ids of objects: recognised, and every fault of theirs found by its kind and case, alone."""

import numpy as np
import pytest
from PIL import Image as Picture

from autoseg.data import check
from autoseg.data.check import examine_case
from autoseg.data.check_instances import looks_like_ids
from autoseg.data.check_labels import measure_label
from autoseg.data.check_objects import examine_ids
from autoseg.data.dataset import Case, DatasetSource, open_dataset
from autoseg.data.instance_labels import OBJECT_LABELS
from autoseg.data.io import open_label
from autoseg.data.label_layers import read_layers
from autoseg.preprocessing import fingerprinting
from autoseg.preprocessing.fingerprinting import check_and_measure
from planners import records

PLACES = [(z, y, x) for z in (0, 4, 8) for y in (0, 5, 10) for x in (0, 4, 8, 12)]
CELLS = {"background": 0, "cell": 1}
KINDS_OF_CELL = {"background": 0, "round": 5, "long": 9, "stroma": 2}


def objects(shape: tuple[int, ...], number: int, first: int = 1, step: int = 1) -> np.ndarray:
    ids = np.zeros(shape, dtype=np.int32)
    for index, (z, y, x) in enumerate(PLACES[:number]):
        ids[z : z + 3, y : y + 3, x : x + 2] = first + step * index
    return ids


@pytest.fixture
def cells(spoiled):
    """A sound dataset with ids of cells."""
    spoiled.declare(labels=CELLS, instances=["cell"])
    for case in range(spoiled.num_cases):
        spoiled.write(spoiled.label(case), objects(spoiled.shape, 20 + 2 * case, 1 + 50 * case, 7))
    return spoiled


@pytest.fixture
def tissue(spoiled):
    """A sound dataset with ids, and classes beside them."""
    spoiled.declare(labels=KINDS_OF_CELL, instances=["round", "long"])
    (spoiled.root / "labelsTr" / "classes").mkdir()
    for case in range(spoiled.num_cases):
        ids = objects(spoiled.shape, 12)
        classes = np.select([ids == 0, ids % 2 == 1], [0, 5], 9).astype(np.uint8)
        classes[11] = 2
        spoiled.write(spoiled.label(case), ids)
        spoiled.write(class_map(spoiled, case), classes)
    return spoiled


def class_map(spoiled, case: int):
    return spoiled.root / "labelsTr" / "classes" / spoiled.label(case).name


def change(spoiled, path, where, value) -> None:
    import SimpleITK

    array = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path)))
    array[where] = value
    spoiled.write(path, array)


# --------------------------------------------------------------------------------------------------- what is sound


def test_ids_are_neither_undeclared_nor_rare_nor_an_image(cells) -> None:
    result = cells.check()
    assert (result.problems, result.notes) == ((), ())
    assert result.labels is not None
    assert result.labels.instance_classes == ("cell",)


def test_the_largest_ids_are_fine(cells) -> None:
    ids = objects(cells.shape, 9).astype(np.int64)
    cells.write(cells.label(0), np.where(ids > 0, 2**31 - ids, 0).astype(np.int32))
    assert cells.check().problems == ()


def test_ids_with_classes_are_sound(tissue) -> None:
    result = tissue.check()
    assert result.problems == ()
    assert result.labels is not None
    assert result.labels.instance_classes == ("round", "long")


def test_what_is_sound_is_given_on_with_its_classes_and_numbers(tissue) -> None:
    dataset = open_dataset(DatasetSource(dataset=tissue.root))
    given = []
    facts = examine_case(dataset.cases[2], also=lambda *arrays: given.append(arrays), labels=dataset.labels)
    ((_, image, values, numbers),) = given
    assert image.shape == (2, *tissue.shape)
    assert set(np.unique(values)) == {0, 2, 5, 9}
    np.testing.assert_array_equal(numbers, objects(tissue.shape, 12) * (values != 2))
    assert facts.objects is not None
    assert (facts.objects.num_objects, facts.objects.num_in_pieces) == (12, 0)
    assert facts.label is not None
    assert [value for value, _ in facts.label.values] == [0, 2, 5, 9]


def test_undeclared_ids_are_recognised_and_classes_of_a_declared_dataset_are_not(cells) -> None:
    cells.declare(labels=None)
    result = cells.check()
    assert result.problems == ()
    assert result.labels == OBJECT_LABELS
    (note,) = result.notes
    assert note.endswith("give --task semantic if they are classes")
    cells.declare(labels=CELLS)
    result = cells.check()
    assert {item.kind for item in result.problems} == {"undeclared-label", "instance-like-labels"}
    assert all('"instances": ["cell"] in dataset.json, or give --task instance' in item.fix for item in result.problems)
    assert cells.check(task="instance").problems == ()


def test_colours_are_objects_where_somebody_says_so(cells, tmp_path) -> None:
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    for case in range(2):
        ids = objects(cells.shape, 30)[8]
        Picture.fromarray(np.stack([ids * 5, ids, ids % 7], -1).astype(np.uint8)).save(
            tmp_path / "labels" / f"{case}.png"
        )
        picture = cells.grey_picture(cells.make_case(case)[0][0])[: ids.shape[0], : ids.shape[1]]
        Picture.fromarray(picture).save(tmp_path / "images" / f"{case}.png")
    assert cells.found(cells.check(tmp_path)) == {("unreadable-file", "0"), ("unreadable-file", "1")}
    result = cells.check(tmp_path, task="instance")
    assert (result.problems, result.notes) == ((), ("colours taken as ids of objects in 2 cases",))


def test_very_many_ids_are_counted_and_not_listed() -> None:
    z, y, x = np.indices((6, 240, 240), dtype=np.int32)
    ids = ((z // 3) * 3600 + (y // 4) * 60 + x // 4 + 1) * ((z % 3 < 2) & (y % 4 < 3) & (x % 4 < 3)) * 1001
    facts = measure_label(ids)
    assert (facts.num_values, facts.values, facts.looks_like_image) == (7201, (), False)
    assert facts.looks_like_instances
    examined = examine_ids("a", "a.tif", ids, None, OBJECT_LABELS)
    assert examined.facts is not None
    assert (examined.facts.num_objects, examined.facts.num_in_pieces) == (7200, 0)
    assert len(records.dumps(facts)) + len(records.dumps(examined.facts)) < 500


def test_very_many_ids_are_recognised(cells, tmp_path) -> None:
    cells.declare(labels=CELLS)
    y, x = np.indices((400, 400), dtype=np.int32)
    ids = (((y // 5) * 80 + x // 5 + 1) * ((y % 5 < 4) & (x % 5 < 4))).astype(np.uint16)
    for folder, array in (("images", np.sin(ids).astype(np.float32)), ("labels", ids)):
        (tmp_path / folder).mkdir()
        Picture.fromarray(array).save(tmp_path / folder / "a.tif")
    result = cells.check(tmp_path)
    assert (result.problems, result.labels) == ((), OBJECT_LABELS)
    (stop,) = cells.check(tmp_path, task="semantic").problems
    assert stop.stops
    assert "6,401 label values are more than can be classes, in labels/a.tif" in stop.found
    assert "take --task instance" in stop.fix
    (tmp_path / "dataset.json").write_text('{"labels": {"background": 0, "cell": 1}}')
    (first, second) = cells.check(tmp_path).problems
    assert "6,401 label values are more than is declared (0, 1)" in f"{first.found} {second.found}"


# ----------------------------------------------------------------------------------------------------- what stops


def test_masks_are_no_ids(cells) -> None:
    for case in range(cells.num_cases):
        cells.write(cells.label(case), (objects(cells.shape, 1 if case == 3 else 20) > 0).astype(np.uint8))
    found = cells.only("mask-as-instances", None)
    assert found == "all 6 maps of ids with objects hold one id, 5 in 3 pieces or more"


def test_one_object_per_map_with_a_stray_voxel_is_no_mask(cells) -> None:
    for case in range(cells.num_cases):
        ids = objects(cells.shape, 1)
        ids[8, 8, 8] = 1
        cells.write(cells.label(case), ids)
    assert cells.check().problems == ()


def test_what_an_ignore_label_cuts_is_no_mask(cells) -> None:
    cells.declare(labels={**CELLS, "ignore": 9}, instances=["cell"])
    for case in range(cells.num_cases):
        ids = np.ones(cells.shape, dtype=np.uint8)
        ids[2::3] = 9
        cells.write(cells.label(case), ids)
    result = cells.check()
    assert not result.stops
    assert cells.found(result) == {("mask-like-ids", f"case_{case:02d}") for case in range(cells.num_cases)}


def test_masks_of_several_classes_are_no_ids(tissue) -> None:
    for case in range(tissue.num_cases):
        ids = objects(tissue.shape, 12)
        tissue.write(tissue.label(case), np.where(ids > 0, 1 + ids % 2, 0).astype(np.uint8))
    assert "hold no more ids than there are classes (2), 6 in 3 pieces" in tissue.only("mask-as-instances", None)


@pytest.mark.parametrize(("value", "says"), [(-3, "the ids hold -3"), (2.5, "the ids hold 2.5")])
def test_what_is_no_id(cells, value: float, says: str) -> None:
    array = objects(cells.shape, 15).astype(np.float32 if value > 0 else np.int16)
    array[0, 0, 0] = value
    cells.write(cells.label(1), array)
    found = cells.only("no-ids", 1)
    assert found.startswith(says)
    assert found.endswith("(labelsTr/case_01.nii.gz)")


def test_negative_ids_may_be_what_is_ignored(cells) -> None:
    cells.declare(labels={**CELLS, "ignore": -1}, instances=["cell"])
    array = objects(cells.shape, 15)
    array[5] = -1
    cells.write(cells.label(1), array)
    assert cells.check().problems == ()


def test_volumes_of_objects_are_stored_once_with_their_ids(cells, monkeypatch) -> None:
    voxels = cells.num_cases * np.prod(cells.shape)
    assert cells.check().store_bytes == pytest.approx(voxels * (2 * 4 + 2 * 2))
    monkeypatch.setattr(check, "_label_bytes", lambda case: 8 if case.objects.num_objects > 20 else 4)
    assert cells.check().store_bytes == pytest.approx(voxels * (2 * 4 + (4 + 5 * 8) / 6))
    dataset = open_dataset(DatasetSource(dataset=cells.root))
    monkeypatch.undo()
    facts = check._examine_all(dataset, 1)
    finer = {case.id: (4.0, 2.4, 2.0) for case in facts if not case.test}  # twice the voxels' size along every axis
    assert check.judge(dataset, facts, rescaled_mm=finer).store_bytes == pytest.approx(8 * voxels * (2 * 4 + 2 * 2))


def test_no_map_holds_an_object(cells) -> None:
    for case in range(cells.num_cases):
        cells.write(cells.label(case), np.zeros(cells.shape, dtype=np.uint8))
    assert cells.only("no-foreground", None) == "6 maps of ids hold no object"


def test_an_image_among_the_ids(cells) -> None:
    image = np.random.default_rng(0).integers(0, 200, cells.shape).astype(np.uint8)
    cells.write(cells.label(2), image)
    assert "scattered like those of an image" in cells.only("image-as-label", 2)


def test_missing_map_of_classes(tissue) -> None:
    class_map(tissue, 4).unlink()
    assert "no map of classes beside the ids tells stroma, round, long apart" in tissue.only("missing-classes", 4)
    for case in range(tissue.num_cases):
        class_map(tissue, case).unlink(missing_ok=True)
    (tissue.root / "labelsTr" / "classes").rmdir()
    assert tissue.found(tissue.check()) == {("missing-classes", f"case_{case:02d}") for case in range(6)}


def test_map_of_classes_of_another_shape(tissue) -> None:
    tissue.write(class_map(tissue, 1), np.zeros((12, 13, 16), dtype=np.uint8))
    found = tissue.only("classes-shape", 1)
    assert "map of classes has shape 12×13×16, label has 12×14×16 (labelsTr/classes/case_01.nii.gz)" in found


def test_map_of_classes_elsewhere(tissue) -> None:
    tissue.write(class_map(tissue, 1), np.zeros(tissue.shape, dtype=np.uint8), origin=(5.0, -7.0, 15.0))
    result = tissue.check()
    assert ("classes-geometry", "case_01") in tissue.found(result)
    assert "shifted by +2 voxels along z against the label" in result.text()


@pytest.mark.parametrize(
    ("where", "value", "says"),
    [
        ((0, slice(0, 3), slice(0, 2)), 0, "6 voxels of objects are background"),
        ((0, slice(0, 3), slice(0, 2)), 9, "1 object of more than one class (id 1)"),
        ((3, slice(0, 3), slice(0, 2)), 5, "6 voxels of round or long belong to no object"),
    ],
)
def test_ids_and_classes_that_disagree(tissue, where, value: int, says: str) -> None:
    change(tissue, class_map(tissue, 3), where, value)
    assert tissue.only("ids-against-classes", 3) == f"{says} (labelsTr/case_03.nii.gz)"


def test_classes_of_the_map_of_classes_are_looked_at(tissue) -> None:
    change(tissue, class_map(tissue, 3), 11, 7)
    assert "label value 7" in tissue.only("undeclared-label", 3)


# ----------------------------------------------------------------------------------------------------- what warns


def test_a_mask_among_the_ids(cells) -> None:
    cells.write(cells.label(1), (objects(cells.shape, 20) > 0).astype(np.uint8))
    assert "holds id 1 alone, in 20 pieces (labelsTr/case_01.nii.gz)" in cells.only("mask-like-ids", 1)


def test_ids_that_are_used_twice(cells) -> None:
    ids = objects(cells.shape, 20)
    cells.write(cells.label(5), np.where(ids > 10, ids - 10, ids))
    assert "10 of 10 ids are in pieces, such as id 1 in 2" in cells.only("ids-in-pieces", 5)


def test_a_map_without_objects(cells) -> None:
    cells.write(cells.label(5), np.zeros(cells.shape, dtype=np.uint8))
    assert cells.only("no-objects", 5) == "the map of ids holds no object (labelsTr/case_05.nii.gz)"


@pytest.mark.parametrize(("first", "warns"), [(1, True), (30, False), (-300, False)])
def test_an_ignore_value_among_the_ids(cells, first: int, warns: bool) -> None:
    cells.declare(labels={**CELLS, "ignore": 15}, instances=["cell"])
    ids = objects(cells.shape, 20, abs(first))
    ids[11, 0, 0] = 15
    cells.write(cells.label(0), np.where(ids >= 300, ids % 10 + 1, ids) if first < 0 else ids)
    for case in range(1, cells.num_cases):
        cells.write(cells.label(case), objects(cells.shape, 12))
    if not warns:
        assert all(item.kind != "ignore-among-ids" for item in cells.check().problems)
        return
    says = "the ignore value 15 (19 voxels) lies among the ids, 1 to 20 (labelsTr/case_00.nii.gz)"
    assert cells.only("ignore-among-ids", 0) == says


def test_the_map_of_one_class_tells_what_is_ignored(cells) -> None:
    cells.declare(labels={**CELLS, "ignore": 15}, instances=["cell"])
    (cells.root / "labelsTr" / "classes").mkdir()
    ids = objects(cells.shape, 20)
    cells.write(cells.label(0), ids)
    cells.write(class_map(cells, 0), np.where(ids == 20, 15, ids > 0).astype(np.uint8))
    for case in range(1, cells.num_cases):
        cells.write(cells.label(case), objects(cells.shape, 12))
    dataset = open_dataset(DatasetSource(dataset=cells.root))
    assert [case.classes is not None for case in dataset.cases] == [True] + [False] * 5
    assert cells.check().problems == ()
    assert dataset.labels is not None
    label, classes = (open_label(path) for path in (dataset.cases[0].label, dataset.cases[0].classes))
    layers = read_layers(label, classes, dataset.labels)
    np.testing.assert_array_equal(layers[0], np.select([ids == 20, ids > 0], [2, 1], 0))
    np.testing.assert_array_equal(layers[1], np.where(ids < 20, ids, 0))


def test_classes_of_few_cases_are_still_named(tissue) -> None:
    for case in range(4):
        change(tissue, class_map(tissue, case), 11, 0)
    assert "stroma (in 2)" in tissue.only("rare-class", None)


def test_nothing_known_is_no_ids() -> None:
    assert looks_like_ids([]) == ""
    facts = examine_case(Case(id="a", images=()), test=True)
    assert looks_like_ids([facts]) == ""


# ------------------------------------------------------------------------------------------------------ measuring


def test_undeclared_ids_are_measured_as_objects_and_both_readings_are_kept(cells, tmp_path, monkeypatch) -> None:
    cells.declare(labels=None)
    dataset = open_dataset(DatasetSource(dataset=cells.root))
    result, fingerprint = check_and_measure(dataset, tmp_path, threads=1)
    assert fingerprint is not None
    assert fingerprint.labels == result.labels == OBJECT_LABELS
    voxels = int(np.count_nonzero(objects(cells.shape, 24)))
    assert fingerprint.class_voxels[2] == (np.prod(cells.shape) - voxels, voxels)
    monkeypatch.setattr(fingerprinting, "examine_case", None)
    assert check_and_measure(dataset, tmp_path, threads=1) == (result, fingerprint)


def test_a_changed_map_of_classes_is_measured_anew(tissue, tmp_path) -> None:
    dataset = open_dataset(DatasetSource(dataset=tissue.root))
    _, fingerprint = check_and_measure(dataset, tmp_path, threads=1)
    assert fingerprint is not None
    change(tissue, class_map(tissue, 1), 11, 0)
    _, later = check_and_measure(dataset, tmp_path, threads=1)
    assert later is not None
    assert (fingerprint.class_voxels[1][1] or 0) > later.class_voxels[1][1] == 0
    assert later.class_voxels[0] == fingerprint.class_voxels[0]
