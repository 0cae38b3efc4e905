"""Images made in code, as arrays and as files."""

import numpy as np
import SimpleITK as sitk


def random_array(*shape, seed=0):
    return (np.random.default_rng(seed).normal(size=shape) * 100).round().astype(np.int16)


def write_volume(path, array, spacing_xyz=(1.5, 1.0, 1.0)):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(spacing_xyz[: image.GetDimension()])
    if image.GetDimension() == 3:
        image.SetOrigin((-12.5, 30.0, 7.0))
        image.SetDirection((0.0, -1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0))
    sitk.WriteImage(image, str(path))
    return image
