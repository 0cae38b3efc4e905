"""The store gives back what was written, reads only boxes, and notices what is not whole."""

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoseg.errors import RunFolderError
from autoseg.preprocessing.locations import ANNOTATED, MIN_LOCATIONS, sample_locations
from autoseg.preprocessing.preprocess import OUTSIDE, CaseGrid, PreprocessedCase
from autoseg.preprocessing.store import Store, StoredCase, array_path
from planners.labels import LabelClass, Labels, Region

LABELS = Labels(classes=tuple(LabelClass(name=f"class {i}", value=10 * i) for i in range(4)))
SHAPE = (4, 5, 6)


def make_case(seed: int = 0, shape: tuple[int, int, int] = SHAPE) -> PreprocessedCase:
    rng = np.random.default_rng(seed)
    grid = CaseGrid(
        shape_before_crop=shape,
        crop_box=((0, shape[0]), (0, shape[1]), (0, shape[2])),
        shape_after_crop=shape,
        spacing_before_mm=(0.1, 1.0, 1 / 3),
        shape=shape,
        spacing_mm=(0.1, 1.0, 1 / 3),
    )
    image = rng.normal(size=(2, *shape)).astype(np.float32)
    return PreprocessedCase(
        image_CZYX=image, labels_LZYX=rng.integers(-1, 3, size=(1, *shape)).astype(np.int8), grid=grid
    )


def write(store: Store, case: PreprocessedCase, digest: str = "d0", name: str = "case_1") -> StoredCase:
    assert case.labels_LZYX is not None
    return store.write(name, case, digest, sample_locations(case.labels_LZYX[0], LABELS))


def test_round_trip(tmp_path: Path) -> None:
    store, case = Store(tmp_path / "new"), make_case()
    write(store, case)
    assert store.has("case_1", "d0")
    assert not store.has("case_1", "d1")
    assert not store.has("case_2", "d0")
    opened = store.open("case_1")
    np.testing.assert_array_equal(opened.image, case.image_CZYX)
    np.testing.assert_array_equal(opened.labels, case.labels_LZYX)
    assert opened.labels.dtype == np.int8
    assert (opened.id, opened.digest, opened.grid, opened.shape) == ("case_1", "d0", case.grid, SHAPE)
    assert opened.present_classes == (1, 2)
    with pytest.raises(ValueError, match="read-only"):
        opened.image[0, 0, 0, 0] = 1


def test_locations_lie_on_their_class_and_are_compact(tmp_path: Path) -> None:
    case = make_case()
    opened = write(Store(tmp_path), case)
    for index in (1, 2):
        rows = opened.locations(index)
        assert rows.dtype == np.uint16
        assert len(rows) == opened.num_locations(index) == (opened.labels[0] == index).sum()
        assert (opened.labels[0][tuple(rows.T)] == index).all()
    for absent in (3, ANNOTATED, 99):
        assert opened.locations(absent).shape == (0, 3)
        assert opened.num_locations(absent) == 0


boxes = st.tuples(*[st.tuples(st.integers(-9, 12), st.integers(0, 9))] * 3)


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> StoredCase:
    return write(Store(tmp_path_factory.mktemp("store")), make_case())


@given(boxes)
@settings(max_examples=100, deadline=None)
def test_box_read_is_the_padded_crop(stored: StoredCase, box: tuple[tuple[int, int], ...]) -> None:
    pad = 30
    image = np.pad(stored.image, ((0, 0), *[(pad, pad)] * 3))
    labels = np.pad(stored.labels, ((0, 0), *[(pad, pad)] * 3), constant_values=OUTSIDE)
    start, stop = [low for low, _ in box], [low + size for low, size in box]
    where = (slice(None), *(slice(pad + low, pad + high) for low, high in zip(start, stop, strict=True)))
    read_image, read_labels = stored.read(start, stop)
    np.testing.assert_array_equal(read_image, image[where])
    np.testing.assert_array_equal(read_labels, labels[where])
    assert read_labels.dtype == np.int16
    read_image += 1  # the caller's own


def test_open_cases_hold_no_files_and_travel_between_processes(tmp_path: Path) -> None:
    opened = write(Store(tmp_path), make_case())
    files = Path("/proc/self/fd")
    if files.is_dir():
        before = len(list(files.iterdir()))
        opened.read((0, 0, 0), SHAPE)
        opened.locations(1)
        assert len(list(files.iterdir())) == before
    sent = pickle.dumps(opened)
    assert len(sent) < 3000
    np.testing.assert_array_equal(pickle.loads(sent).image, opened.image)


@pytest.mark.parametrize("kind", ["image", "labels", "locations"])
def test_damaged_case_is_not_there(kind: str, tmp_path: Path) -> None:
    store = Store(tmp_path)
    write(store, make_case())
    path = array_path(tmp_path, "case_1", kind)
    path.write_bytes(path.read_bytes()[:-1])
    assert not store.has("case_1", "d0")
    with pytest.raises(RunFolderError, match="case_1 is not preprocessed"):
        store.open("case_1")
    path.unlink()
    assert not store.has("case_1", "d0")


def test_array_that_vanishes_later_is_named(tmp_path: Path) -> None:
    opened = write(Store(tmp_path), make_case())
    array_path(tmp_path, "case_1", "image").unlink()
    with pytest.raises(RunFolderError, match=r"case_1\.image\.npy is missing or damaged"):
        opened.read((0, 0, 0), (1, 1, 1))


@pytest.mark.parametrize("text", ["", "{", '{"format": 1}', "[]"])
def test_damaged_record_is_not_there(text: str, tmp_path: Path) -> None:
    store = Store(tmp_path)
    write(store, make_case())
    (tmp_path / "case_1.json").write_text(text)
    assert store.record("case_1") is None
    assert not store.has("case_1", "d0")


@pytest.mark.parametrize("stop_at", ["case_1.image.npy", "case_1.locations.npy", "case_1.json"])
def test_a_kill_while_writing_leaves_no_mixed_case(
    stop_at: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path)
    write(store, make_case(0), "old")
    from os import replace

    def stop(source: str, target: Path) -> None:
        if Path(target).name == stop_at:
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr("os.replace", stop)
    with pytest.raises(KeyboardInterrupt):
        write(store, make_case(1), "new")
    monkeypatch.undo()
    assert not store.has("case_1", "old")
    assert not store.has("case_1", "new")
    opened = write(store, make_case(1), "new")
    np.testing.assert_array_equal(opened.image, make_case(1).image_CZYX)


def test_leftovers_are_removed(tmp_path: Path) -> None:
    store = Store(tmp_path)
    write(store, make_case())
    left = tmp_path / ".case_2.image.npy.x1y2z3_4.tmp"
    left.write_bytes(b"half")
    os.utime(left, (0, 0))  # a file that was made a moment ago may be somebody's
    store.remove_leftovers()
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["case_1.image.npy", "case_1.json", "case_1.labels.npy", "case_1.locations.npy"]


def test_number_of_locations_follows_the_rule() -> None:
    layer = np.zeros((1, 1100, 1100), dtype=np.int8)
    layer.reshape(-1)[:1_100_000] = 1
    layer.reshape(-1)[1_100_000 : 1_100_000 + 20_000] = 2
    layer.reshape(-1)[-7:] = 3
    rows = sample_locations(layer, LABELS)
    assert {key: len(value) for key, value in rows.items()} == {1: 11_000, 2: MIN_LOCATIONS, 3: 7}
    for key, value in rows.items():
        assert len(np.unique(value, axis=0)) == len(value), "drawn without replacement"
        assert (layer[tuple(value.T)] == key).all()
    again = sample_locations(layer, LABELS)
    assert all(np.array_equal(rows[key], again[key]) for key in rows)
    # Drawn evenly: with 11,000 of 1,100,000 voxels in 11 parts, each part has 1000 ± 5 standard deviations.
    counts = np.histogram(np.ravel_multi_index(tuple(rows[1].T), layer.shape), bins=11, range=(0, 1_100_000))[0]
    assert np.abs(counts - 1000).max() < 5 * np.sqrt(1000 * 10 / 11)


def test_regions_and_annotated_voxels_have_locations() -> None:
    labels = Labels(
        classes=LABELS.classes,
        regions=(Region(name="whole", values=(10, 20, 30)), Region(name="inner", values=(20,))),
        ignore=255,
    )
    layer = np.array([[[-1, 0, 1, 2, 3, 4, 4]]], dtype=np.int8)
    rows = sample_locations(layer, labels)
    assert {key: sorted(value[:, 2]) for key, value in rows.items()} == {
        ANNOTATED: [0, 1, 2, 3, 4],
        1: [2, 3, 4],
        2: [3],
    }


def test_annotated_classes_are_kept(tmp_path: Path) -> None:
    store, case = Store(tmp_path), make_case()
    assert write(store, case).annotated_classes is None
    store.write("b", case, "d", {}, (), (0, 2))
    assert store.open("b").annotated_classes == (0, 2)
    assert store.open("case_1").annotated_classes is None


def test_cases_of_other_names_go_with_all_their_files(tmp_path: Path) -> None:
    store, case = Store(tmp_path), make_case()
    for name in ("a", "a.b", "c"):
        write(store, case, name=name)
    (tmp_path / "c.previous.npy").write_bytes(b"x")
    (tmp_path / "c.previous.npy.json").write_text("{}")
    (tmp_path / "other.json").write_text('{"kind": "another record"}')
    assert store.keep_only({"a.b"}) == ["a", "c"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *(f"a.b.{end}" for end in ("image.npy", "json", "labels.npy", "locations.npy")),
        "other.json",
    ]
    assert store.keep_only({"a.b"}) == []


def test_the_record_is_written_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[str] = []
    monkeypatch.setattr(Store, "write_record", lambda *_: found.extend(path.name for path in tmp_path.iterdir()))
    write(Store(tmp_path), make_case())
    assert sorted(found) == ["case_1.image.npy", "case_1.labels.npy", "case_1.locations.npy"]


@pytest.mark.parametrize("kind", ["image", "labels", "locations"])
def test_an_array_that_never_reached_the_disk_is_noticed(tmp_path: Path, kind: str) -> None:
    """After a power cut a file may have its length and its first block, and zeros behind."""
    store = Store(tmp_path)
    write(store, make_case())
    path = tmp_path / f"case_1.{kind}.npy"
    content = path.read_bytes()
    path.write_bytes(content[:128] + bytes(len(content) - 128))
    record = store.record("case_1")
    assert record is not None
    assert not store.is_intact("case_1", record)
