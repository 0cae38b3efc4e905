"""Pages of runs that tell objects apart: whole, honest about what is missing, and compared by their objects."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from html import unescape
from pathlib import Path

import numpy as np
import SimpleITK

from autoseg.evaluation.instance_records import InstanceCase, ObjectScores
from autoseg.evaluation.instance_results import CaseObjectFacts, InstanceResults
from autoseg.evaluation.selection import Choice
from autoseg.report import write_report
from autoseg.report.comparison import write_comparison
from autoseg.report.material import Material, gather
from autoseg.report.object_section import object_section
from autoseg.report.page import render
from autoseg.run_folder import RunFolder, RunRecord
from planners.labels import LabelClass, Labels

LIMIT_BYTES = 3_000_000


def text_of(page: str) -> str:
    """What a reader sees, in one line."""
    body = re.sub(r"<style>.*?</style>", " ", page, flags=re.S)
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]*>", " ", body)))


def test_page_of_a_run_with_objects_has_everything(make_object_run: Callable[..., RunFolder]) -> None:
    page = write_report(make_object_run()).read_text()
    text = text_of(page)
    for part in (
        "6 cases, 3 channels (red, green, blue), 1 class to find, the objects of nucleus told apart.",
        "mean F1 @ 0.5, out of fold",
        "objects labelled",
        "foreground above 0.4, seeds above 0.1, no object below 12 voxels as trained",
        "AP @ 0.5…0.95",
        "What became of the objects",
        "one predicted object covers most of two or more labelled ones",
        "Size against score",
        "The worst images",
        "The objects it was planned from",
        "14 pixels; 90 % between 9.5 and 21",
        "18.4 %",
        "All that was compared candidate mean F1 @ 0.5",
        "where objects touch",
        "told apart nucleus",
        "How the images are spread",
        "target boundary, 3 maps",
        "common size no",
        "2d_boundary chosen 0.871",
        "foreground above 0.5, flow error up to 0.8",
        "mean F1@0.5 0.871 against 0.853 of 2d_flow out of fold",
        "Classes, voxel by voxel",
        "part 1:",
        "boundary",
    ):
        assert part in text, part
    for part in ("Not in this page", "Surfaces, boundaries", "confidence.json", "metrics.json", "postprocessing"):
        assert part not in text, part
    for word in ("nan", "None", "inf ", "Undefined"):
        assert not re.search(rf"\b{word}\b", text), word
    for kind in ("right", "merged", "split", "missed", "invented"):
        assert f'<path class="object {kind}"' in page, kind
    assert not re.search(r'(href|src)="(?!#|data:)', page)
    assert "<script" not in page
    anchors, ids = set(re.findall(r'href="#([^"]+)"', page)), set(re.findall(r'id="([^"]+)"', page))
    assert anchors <= ids


def test_what_a_run_with_objects_lacks_is_said(make_object_run: Callable[..., RunFolder]) -> None:
    run = make_object_run(measured=False, num_cases=3)
    text = text_of(write_report(run).read_text())
    assert "Objects have not been measured yet: there is no instances.json" in text
    assert "No pictures of measured images" in text
    assert "instances.json is not there; it is written with the choice." in text.partition("Not in this page")[2]
    run.instances_file.write_text("{}")
    run.metrics_file.write_text("[]")
    notes = text_of(write_report(run).read_text()).partition("Not in this page")[2]
    assert "instances.json: $" in notes
    assert "metrics.json: $" in notes
    choice = json.loads(run.choice_file.read_text())
    choice["decode"] = choice["candidates"][0]["decode"] = {}
    run.choice_file.write_text(json.dumps(choice))
    text = text_of(write_report(run).read_text())
    assert "chosen 0.8710" in text
    assert "the settings as planned" in text
    assert re.search(r"Objects are found with no object below \d+ voxels as trained", text), "by the plan"
    run.choice_file.unlink()
    run.fingerprint_file.unlink()
    assert "Nothing has been chosen yet" in text_of(write_report(run).read_text())


def test_predictions_by_the_plan_are_told_from_those_of_the_choice(make_object_run: Callable[..., RunFolder]) -> None:
    run = make_object_run(num_cases=3)
    assert "settings of the plan" not in write_report(run).read_text()
    made_from = run.read(RunRecord, run.run_file).made_from
    run.change_record(made_from={**made_from, run.out_of_fold.name: "of another choice"})
    assert "settings of the plan, not with the chosen ones" in write_report(run).read_text()
    run.change_record(made_from=made_from)
    for path in run.out_of_fold.iterdir():
        path.unlink()
    assert "settings of the plan, not with the chosen ones" in write_report(run).read_text()


def test_labels_with_a_loss_are_drawn(make_object_run: Callable[..., RunFolder]) -> None:
    run = make_object_run(num_cases=3, configurations=("2d_boundary",), num_folds=1)
    rows = [{"case": f"case_{index:03d}", "loss": 0.3 - 0.1 * index, "part": "train"} for index in range(3)]
    losses = {"cases": rows, "patches_per_case": 4}
    run.fold("2d_boundary", 0).case_losses.write_text(json.dumps(losses))
    assert "Training cases with the highest and the lowest loss" in text_of(write_report(run).read_text())
    for path in [*run.root.rglob("case_000.tif")]:
        path.unlink()
    page = write_report(run).read_text()
    assert "label alone: there is no out-of-fold prediction of it" in page
    assert "its prediction is not in the run folder." in page


def test_several_classes_are_read_from_the_maps_beside_the_ids(make_object_run: Callable[..., RunFolder]) -> None:
    classes = tuple(LabelClass(name=name, value=i) for i, name in enumerate(("background", "nucleus", "stroma")))
    labels = Labels(classes=classes, instance_classes=("nucleus",))
    run = make_object_run(num_cases=3, labels=labels)
    assert text_of(write_report(run).read_text()).count("the map of classes is missing") == 3
    for folder in (run.root.parent / "data" / "labels", run.out_of_fold):
        for path in list(folder.glob("*.tif")):
            ids = SimpleITK.ReadImage(str(path))
            (folder / "classes").mkdir(exist_ok=True)
            SimpleITK.WriteImage(SimpleITK.Cast(ids > 0, SimpleITK.sitkUInt8), str(folder / "classes" / path.name))
    cases = run.read(RunRecord, run.run_file).cases
    named = [str(Path(str(case.label)).parent / "classes" / f"{case.id}.tif") for case in cases]
    cases = tuple(replace(case, classes=path) for case, path in zip(cases, named, strict=True))
    run.change_record(cases=cases)
    choice = run.read(Choice, run.choice_file)
    single = replace(choice.candidates[0], dice=(0.75, 0.25))
    average = replace(single, name="both", configurations=("2d_boundary", "2d_flow"), mean_dice=None, dice=(None, None))
    fitted = {"decode_by_part": {"0": {"foreground": 0.3}}, "structures": ("nucleus", "stroma")}
    changed = replace(choice, candidates=(single, replace(average, score=0.8)), **fitted)
    run.write(changed, run.choice_file)
    run.change_record(made_from={run.out_of_fold.name: changed.predictions_digest})
    page = write_report(run).read_text()
    text = text_of(page)
    assert "nucleus Dice, as planned stroma Dice, as planned" in text
    assert re.search(r"both 0\.8000.* – – ", text), "nobody measured it"
    assert "for the numbers on this page each image was decoded with settings that were fitted on the other" in text
    assert "the map of classes is missing" not in page
    assert "No picture" not in page


def test_volumes_show_the_slice_with_most_objects(make_object_run: Callable[..., RunFolder]) -> None:
    run = make_object_run(num_cases=3, shape=(10, 60, 64), ending=".nii.gz", configurations=("3d_fullres_boundary",))
    page = text_of(write_report(run).read_text())
    assert re.search(r"slice \d+ of 10 along z, most (wrong )?objects", page)


def test_runs_are_compared_by_their_objects(make_object_run: Callable[..., RunFolder], tmp_path: Path) -> None:
    first, second = make_object_run("first"), make_object_run("second", at_once=5)
    text = text_of(write_comparison([first, second], tmp_path / "comparison.html").read_text())
    for part in (
        "mean F1 @ 0.5 mean AP @ 0.5",
        "Objects, side by side",
        "Over 6 shared cases the mean F1 @ 0.5 of first/run is higher by 0.",
        "mean PQ ▲ 0.",
        "objects; right of the upright line the former is better",
    ):
        assert part in text, part


def test_a_run_with_objects_stands_beside_one_without(
    make_object_run: Callable[..., RunFolder], make_run: Callable[..., RunFolder], tmp_path: Path
) -> None:
    runs = [make_object_run("objects", num_cases=3), make_run("classes", num_cases=3, num_epochs=2)]
    text = text_of(write_comparison(runs, tmp_path / "comparison.html").read_text())
    assert "cannot be compared" in text
    assert "mean F1 @ 0.5" in text


def test_page_of_many_images_and_objects_stays_light(make_object_run: Callable[..., RunFolder]) -> None:
    """1,000 images with 300 objects each: at most a megabyte beside the pictures."""
    small = gather(make_object_run(num_cases=3))
    material = replace(small, instances=many_objects(small, 1000, 300))
    page = render(material)
    assert len(page.encode()) < LIMIT_BYTES / 3
    section = object_section(material)
    assert section is not None
    assert (len(section.images), section.num_images) == (300, 1000)


def many_objects(material: Material, num_images: int, num_objects: int) -> InstanceResults:
    assert material.instances is not None
    rng = np.random.default_rng(0)
    cases, objects = [], []
    for index in range(num_images):
        kinds = rng.choice(["right", "merged", "split", "missed"], num_objects)
        found = int((kinds == "right").sum())
        template = material.instances.comparison.cases[0].scores[0]
        scores = ObjectScores(
            group=template.group,
            values=template.values,
            num_labelled=num_objects,
            num_predicted=num_objects,
            found=(found,) * len(template.found),
        )
        cases.append(InstanceCase(case=f"image_{index:04d}", scores=(scores,)))
        facts = CaseObjectFacts(
            case=f"image_{index:04d}",
            label_diameters=tuple(rng.uniform(5, 50, num_objects)),
            label_iou=tuple(rng.uniform(0, 1, num_objects)),
            label_errors=tuple(kinds.tolist()),
            prediction_diameters=tuple(rng.uniform(5, 50, num_objects)),
            prediction_errors=tuple(np.where(kinds == "missed", "invented", kinds).tolist()),
        )
        objects.append(facts)
    return InstanceResults(
        comparison=replace(material.instances.comparison, cases=tuple(cases)), objects=tuple(objects)
    )
