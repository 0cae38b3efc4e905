"""What is on the user's disk: images of many formats, dataset folders of several layouts, folds, a demo dataset."""
