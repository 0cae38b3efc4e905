"""Out of fold: what only the comparison of ensembles computes is kept, and lies where the image does."""

import numpy as np
import SimpleITK as sitk

from autoseg.evaluation.overlap import CasePrediction
from autoseg.inference.out_of_fold import _Comparison
from autoseg.run_folder import CaseFiles, RunFolder, RunRecord
from planners.fingerprint import Channel
from planners.labels import LabelClass, Labels
from planners.plan import MemoryBudget, Plan

LABELS = Labels(classes=(LabelClass(name="air", value=0), LabelClass(name="core", value=200)))


def test_predictions_of_a_winning_pair_are_written_as_they_pass(make_configuration, tmp_path, monkeypatch):
    run = RunFolder(tmp_path / "run")
    image = sitk.GetImageFromArray(np.zeros((3, 4, 5), dtype=np.float32))
    image.SetSpacing((1.0, 2.0, 3.0))
    sitk.WriteImage(image, str(tmp_path / "a_0000.nii.gz"))
    plan = Plan(
        dataset="test",
        planner="default",
        budget=MemoryBudget(),
        axis_order=(0, 1, 2),
        channels=(Channel(name="MRI"),),
        labels=LABELS,
        configurations=(make_configuration((4, 4), name="2d"), make_configuration((4, 4, 4), name="3d")),
    )
    files = CaseFiles(id="a", images=(str(tmp_path / "a_0000.nii.gz"),), label=str(tmp_path / "a.nii.gz"))
    record = RunRecord(name="test", dataset=str(tmp_path), cases=(files,), started="now", folds=(0,))
    comparison = _Comparison(run, record, plan)
    segmentation = np.zeros((3, 4, 5), dtype=np.uint8)
    segmentation[1, 2, 3] = 1
    cases = [CasePrediction("a", segmentation * 0, segmentation)]
    monkeypatch.setattr(comparison, "_read_pair", lambda names: iter(cases))
    monkeypatch.setattr(comparison, "_read_single", lambda name: iter(cases))

    assert list(comparison.read(("2d",))) == cases
    assert not run.out_of_fold.exists()
    assert list(comparison.read(("2d", "3d"))) == cases
    written = sitk.ReadImage(str(run.out_of_fold / "a.nii.gz"))
    assert written.GetSpacing() == image.GetSpacing()
    np.testing.assert_array_equal(sitk.GetArrayFromImage(written), segmentation * 200)
