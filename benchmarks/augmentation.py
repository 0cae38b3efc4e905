"""Is our augmentation cheaper than nnU-Net's? CPU time per sample, side by side, one thread, from stored case to patch.

Ours is ``BatchSource.batch`` (draw, read the needed box, apply). The peer is batchgeneratorsv2 0.3.6 with nnU-Net
v2.8.1's default transforms, sample by sample, on loader patches read from the same stored cases. The third is our
backend made of batchgenerators. Rounds alternate (A B C A B C …); printed are medians over rounds, and how many times
ours the others take.

    python benchmarks/augmentation.py [--rounds 5]
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from batchgeneratorsv2.transforms.intensity.brightness import MultiplicativeBrightnessTransform
from batchgeneratorsv2.transforms.intensity.contrast import BGContrast, ContrastTransform
from batchgeneratorsv2.transforms.intensity.gamma import GammaTransform
from batchgeneratorsv2.transforms.intensity.gaussian_noise import GaussianNoiseTransform
from batchgeneratorsv2.transforms.noise.gaussian_blur import GaussianBlurTransform
from batchgeneratorsv2.transforms.spatial.low_resolution import SimulateLowResolutionTransform
from batchgeneratorsv2.transforms.spatial.mirroring import MirrorTransform
from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from batchgeneratorsv2.transforms.utils.pseudo2d import Convert2DTo3DTransform, Convert3DTo2DTransform
from batchgeneratorsv2.transforms.utils.random import RandomTransform
from batchgeneratorsv2.transforms.utils.remove_label import RemoveLabelTransform
from scipy import ndimage

from autoseg.preprocessing.locations import sample_locations
from autoseg.preprocessing.preprocess import CaseGrid, PreprocessedCase
from autoseg.preprocessing.store import Store, StoredCase
from autoseg.training.augmentation_batchgenerators import augmented_batches
from autoseg.training.sampling import BatchSource
from planners.labels import LabelClass, Labels
from planners.plan import (
    Architecture,
    Augmentation,
    Configuration,
    Input,
    Output,
    Resampling,
    Stage,
    Target,
    Training,
)

LABELS = Labels(classes=tuple(LabelClass(name=name, value=value) for value, name in enumerate(("none", "a", "b"))))

# name: (patch, batch size, shape of a case, samples per round)
SETTINGS = {
    "3d 40x56x40 (hippocampus)": ((40, 56, 40), 7, (36, 50, 35), 140),
    "3d 96x96x96": ((96, 96, 96), 2, (150, 180, 170), 40),
    "3d 16x320x256, in plane": ((16, 320, 256), 2, (20, 340, 300), 40),
    "2d 56x40 (hippocampus)": ((56, 40), 200, (36, 50, 35), 1000),
    "2d 512x512": ((512, 512), 12, (30, 512, 512), 60),
}


def make_case(store: Store, name: str, shape: tuple[int, int, int], seed: int) -> StoredCase:
    rng = np.random.default_rng(seed)
    image = ndimage.gaussian_filter(rng.standard_normal(shape), 1.5).astype(np.float32)
    image = (image - image.mean()) / image.std()
    z, y, x = np.meshgrid(*(np.linspace(-1, 1, size) for size in shape), indexing="ij")
    label = (z**2 + y**2 + x**2 < 0.4).astype(np.int8) + ((z - 0.3) ** 2 + y**2 + x**2 < 0.1)
    box = tuple((0, size) for size in shape)
    grid = CaseGrid(
        shape_before_crop=shape,
        crop_box=(box[0], box[1], box[2]),
        shape_after_crop=shape,
        spacing_before_mm=(1.0, 1.0, 1.0),
        shape=shape,
        spacing_mm=(1.0, 1.0, 1.0),
    )
    case = PreprocessedCase(image_CZYX=image[None], labels_LZYX=label[None].astype(np.int8), grid=grid)
    return store.write(name, case, name, sample_locations(label, LABELS))


def make_configuration(patch: tuple[int, ...], batch_size: int) -> Configuration:
    ones = (1,) * len(patch)
    flat, ratio = len(patch) == 2, max(patch) / (min(patch) if len(patch) == 2 else patch[0])
    angle = (np.pi / 12 if ratio > 1.5 else np.pi) if flat else (np.pi if ratio > 3 else np.pi / 6)
    augmentation = Augmentation(rotation_radians=float(angle), in_plane=not flat and ratio > 3)
    return Configuration(
        name="benchmark",
        inputs=(Input(channels=1),),
        spacing_mm=(1.0,) * len(patch),
        median_shape=tuple(float(size) for size in patch),
        patch_size=patch,
        output_size=patch,
        batch_size=batch_size,
        normalization=("zscore",),
        use_mask_for_norm=(False,),
        resampling=Resampling(),
        target=Target(name="semantic", num_outputs=3),
        architecture=Architecture(
            family="plain-unet",
            dimensions=len(patch),
            stages=(Stage(features=8, kernel=(3,) * len(patch), stride=ones, num_blocks=1),),
            num_decoder_blocks=(),
            outputs=(Output(stride=ones, loss_weight=1.0),),
        ),
        training=Training(augmentation=augmentation, mirror_axes=tuple(range(len(patch)))),
        estimated_bytes=0,
    )


def peer_transforms(configuration: Configuration) -> ComposeTransforms:
    """nnU-Net v2.8.1's default training transforms, up to the targets."""
    augmentation = configuration.training.augmentation
    patch, in_plane = configuration.patch_size, augmentation.in_plane
    angle = augmentation.rotation_radians
    spatial = SpatialTransform(
        patch[1:] if in_plane else patch,
        patch_center_dist_from_border=0,
        random_crop=False,
        p_elastic_deform=0,
        p_rotation=0.2,
        rotation=(-angle, angle),
        p_scaling=0.2,
        scaling=(0.7, 1.4),
        p_synchronize_scaling_across_axes=1,
        bg_style_seg_sampling=False,
        border_mode_seg="constant",
        padding_value_seg=-1,
    )
    factors, gammas = BGContrast((0.75, 1.25)), BGContrast((0.7, 1.5))
    noise = GaussianNoiseTransform(noise_variance=(0, 0.1), p_per_channel=1, synchronize_channels=True)
    blur = GaussianBlurTransform((0.5, 1.0), False, False, p_per_channel=0.5, benchmark=True)
    brightness = MultiplicativeBrightnessTransform(factors, False, 1)
    contrast = ContrastTransform(factors, preserve_range=True, synchronize_channels=False, p_per_channel=1)
    zoom = SimulateLowResolutionTransform(
        (0.5, 1),
        synchronize_channels=False,
        synchronize_axes=True,
        ignore_axes=(0,) if in_plane else None,
        p_per_channel=0.5,
    )
    inverted = GammaTransform(gammas, p_invert_image=1, synchronize_channels=False, p_per_channel=1, p_retain_stats=1)
    gamma = GammaTransform(gammas, p_invert_image=0, synchronize_channels=False, p_per_channel=1, p_retain_stats=1)
    intensities = (
        (noise, 0.1),
        (blur, 0.2),
        (brightness, 0.15),
        (contrast, 0.15),
        (zoom, 0.25),
        (inverted, 0.1),
        (gamma, 0.3),
    )
    turned = [Convert3DTo2DTransform(), spatial, Convert2DTo3DTransform()] if in_plane else [spatial]
    return ComposeTransforms(
        [
            *turned,
            *(RandomTransform(transform, probability) for transform, probability in intensities),
            MirrorTransform(configuration.training.mirror_axes),
            RemoveLabelTransform(-1, 0),
        ]
    )


def ours(source: BatchSource, num_samples: int) -> None:
    for step in range(num_samples // source.configuration.batch_size):
        source.batch(0, step)


def peer(source: BatchSource, transforms: ComposeTransforms, num_samples: int) -> None:
    for step in range(num_samples // source.configuration.batch_size):
        images, labels = [], []
        for sample in source.samples(0, step):
            stop = [first + size for first, size in zip(sample.corner, source.frame.loader, strict=True)]
            image, label = (torch.from_numpy(array) for array in sample.case.read(sample.corner, stop))
            if source.configuration.dimensions == 2:
                image, label = image[:, 0], label[:, 0]
            made = transforms(image=image, segmentation=label)
            images.append(made["image"])
            labels.append(made["segmentation"])
        torch.stack(images), torch.stack(labels)


def cpu_seconds(work: Callable[[], None]) -> float:
    before = time.process_time()
    work()
    return time.process_time() - before


def other_backend(source: BatchSource, num_samples: int) -> None:
    for _ in augmented_batches(source, 0, range(num_samples // source.configuration.batch_size), "cpu", num_workers=0):
        pass


def compare(
    patch: tuple[int, ...], batch_size: int, shape: tuple[int, int, int], count: int, rounds: int
) -> list[float]:
    """Give the CPU milliseconds per sample of ours, of the peer, and of the other backend."""
    configuration = make_configuration(patch, batch_size)
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder))
        cases = [make_case(store, f"case_{seed}", shape, seed) for seed in range(4)]
        source = BatchSource(cases, configuration, seed=0, augment=True)
        transforms = peer_transforms(configuration)
        works = (
            lambda: ours(source, count),
            lambda: peer(source, transforms, count),
            lambda: other_backend(source, count),
        )
        done = count // batch_size * batch_size
        for work in works:
            work()
        times = [[cpu_seconds(work) * 1000 / done for work in works] for _ in range(rounds)]
    return [statistics.median(column) for column in zip(*times, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="", help="settings whose name holds this")
    options = parser.parse_args()
    torch.set_num_threads(1)
    np.random.seed(0)
    torch.manual_seed(0)
    columns = ("autoseg", "batchgeneratorsv2", "batchgenerators")
    print(f"{'CPU ms per sample':<28}" + "".join(f"{name:>24}" for name in columns))
    for name, (patch, batch_size, shape, count) in SETTINGS.items():
        if options.only in name:
            found = compare(patch, batch_size, shape, count, options.rounds)
            cells = [f"{value:.2f} ({value / found[0]:.1f} ×)" for value in found]
            print(f"{name:<28}" + "".join(f"{cell:>24}" for cell in cells), flush=True)


if __name__ == "__main__":
    main()
