"""Plan: every decision of a run in one record, one file, each with its reason.

``Plan.__post_init__`` checks what makes a plan possible; it never repairs. A change is ``dataclasses.replace``.
"""

import math
from dataclasses import dataclass, field
from typing import Any, Literal

from planners.fingerprint import Channel, Shape
from planners.labels import Labels
from planners.possible import check_architecture, check_scaling, check_training
from planners.records import PlanError, is_file_name, shown

FORMAT = 1
"""Version of the plan's JSON. A change of meaning raises it, and brings a function that upgrades the one before."""

GIGABYTE = 10**9


@dataclass(frozen=True, kw_only=True)
class MemoryBudget:
    """What a run may use.

    Attributes:
        device_bytes: memory of one device for training.
        host_bytes: main memory for loading and export, or None where unknown.
        num_devices: devices to spread folds over.
    """

    device_bytes: int = 8 * GIGABYTE
    host_bytes: int | None = None
    num_devices: int = 1


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One resolution of the encoder: its first convolution strides by ``stride``."""

    features: int
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    num_blocks: int


@dataclass(frozen=True, kw_only=True)
class Output:
    """One output of the network (deep supervision): its stride against the patch and its weight in the loss."""

    stride: tuple[int, ...]
    loss_weight: float


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """A network as data.

    Attributes:
        family: name in ``networks.NETWORKS``, such as ``plain-unet``.
        dimensions: 2 or 3.
        stages: from full resolution to the bottleneck; the first has stride 1.
        num_decoder_blocks: convolutions per decoder stage, full resolution first (one entry fewer than stages).
        outputs: full resolution first; the ones after it are for deep supervision only.
        options: further choices of the family.
    """

    family: str
    dimensions: int
    stages: tuple[Stage, ...]
    num_decoder_blocks: tuple[int, ...]
    outputs: tuple[Output, ...]
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Input:
    """One input of the network.

    Attributes:
        kind: ``image``: the image's channels; ``previous``: the segmentation of the configuration ``name``, one channel
            per foreground class, 1 where it found that class.
        name: ``image``, or the previous configuration's.
        channels: how many.
        through: of ``previous``, what comes to the grid of this configuration: ``logits``, which are decoded there, or
            ``segmentation``, decoded on the image's own grid and resampled as labels are. nnU-Net v2.8.1 trains with
            the first and predicts with the second.
    """

    kind: Literal["image", "previous", "seeds"] = "image"
    name: str = "image"
    channels: int
    through: Literal["logits", "segmentation"] = "logits"


@dataclass(frozen=True, kw_only=True)
class Target:
    """What the network is trained against (its code is ``autoseg/targets/NAME.py``)."""

    name: str
    num_outputs: int
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Resampling:
    """Spline orders used to bring a case to the target spacing and its logits back.

    Where ``max(spacing) / min(spacing) > anisotropy_threshold`` the axis of the largest spacing is treated on its own,
    with ``order_through_plane``.
    """

    image_order: int = 3
    label_order: int = 1
    logits_order: int = 1
    order_through_plane: int = 0
    anisotropy_threshold: float = 3.0


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """The training augmentation: its parameters in radians and fractions, axes counted within the patch.

    Attributes:
        backend: ``torch`` (batched, on the device) or ``batchgenerators`` (that package's transforms in processes).
        enabled: False trains on plain patches.
        rotation_radians: largest angle, per axis; drawn uniformly from ± this.
        in_plane: rotate, scale, lower the resolution along axes 1 and 2 only (strong anisotropy); blur takes all axes.
    """

    backend: Literal["torch", "batchgenerators"] = "torch"
    enabled: bool = True
    rotation_radians: float = math.pi / 6
    in_plane: bool = False


@dataclass(frozen=True, kw_only=True)
class Training:
    """How one fold is trained. Defaults are nnU-Net v2's recipe (Isensee et al. 2021; v2.8.1).

    Attributes (those that do not speak for themselves):
        momentum_spans: how many times the momentum must forget (every 1 / (1 − momentum) steps) while a fold is
            trained; one too short for that takes less momentum and as much more learning rate. 0: never.
        warm_up: epochs in which the learning rate rises linearly.
        patience: epochs without a better smoothed Dice after which the final anneal begins; None: never.
        mirror_axes: axes of the patch along which patches are mirrored, in training and in prediction.
        mirror_swaps: pairs of classes (left and right) that change places when a patch is mirrored along
            ``mirror_swap_axis``; inner class indices.
        mirror_swap_axis: that axis, one of ``mirror_axes``; None where there are no such pairs.
        frozen: beginnings of parameter names, such as ``encoder``, that training leaves as they are.
        initial_weights: digest of the weights that training starts from; empty: drawn from ``seed``.
    """

    epochs: int = 1000
    steps_per_epoch: int = 250
    validation_steps: int = 50
    optimizer: Literal["sgd"] = "sgd"
    learning_rate: float = 0.01
    momentum: float = 0.99
    momentum_spans: int = 25
    weight_decay: float = 3e-5
    schedule: Literal["poly", "constant"] = "poly"
    warm_up: int = 0
    gradient_clip: float = 12.0
    loss: str = "dice+cross-entropy"
    batch_dice: bool = False
    foreground_fraction: float = 0.33
    augmentation: Augmentation = Augmentation()
    patience: int | None = None
    mirror_axes: tuple[int, ...] = (0, 1, 2)
    mirror_swaps: tuple[tuple[int, int], ...] = ()
    mirror_swap_axis: int | None = None
    frozen: tuple[str, ...] = ()
    initial_weights: str = ""
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class SizeScaling:
    """How images are brought to a common diameter of their objects: estimated from the image alone, in training too.

    Attributes:
        diameter_mm: of the objects after scaling, at the configuration's spacing.
        weights: what the logarithm of an image's diameter (mm) is made of: a constant, then one weight per entry of
            ``preprocessing.size_features``.
        least, most: limits of the factor by which an image is enlarged.
    """

    diameter_mm: float
    weights: tuple[float, ...]
    least: float = 0.25
    most: float = 4.0


@dataclass(frozen=True, kw_only=True)
class Configuration:
    """One network and its data. Tuples have ``architecture.dimensions`` entries: z, y, x after the plan's axis order.

    Attributes:
        name: ``2d``, ``3d_fullres`` …
        inputs: what the network sees, in channel order.
        spacing_mm: target spacing; a 2D configuration keeps the slices' own spacing and names y, x only.
        median_shape: median over cases of the shape at that spacing.
        patch_size: voxels of a training patch.
        output_size: voxels of the network's output for one patch.
        batch_size: patches per step.
        normalization: per channel, a name in ``preprocessing.normalization.NORMALIZATIONS``.
        use_mask_for_norm: per channel, whether only voxels inside the nonzero mask are normalized.
        resampling, target, architecture, training: see there.
        estimated_bytes: our own prediction of the training step's peak.
        previous: name of the configuration whose segmentation is an input (cascade), or None.
        scaling: how images are brought to a common size of their objects; None: they are not.
    """

    name: str
    inputs: tuple[Input, ...]
    spacing_mm: tuple[float, ...]
    median_shape: tuple[float, ...]
    patch_size: tuple[int, ...]
    output_size: tuple[int, ...]
    batch_size: int
    normalization: tuple[str, ...]
    use_mask_for_norm: tuple[bool, ...]
    resampling: Resampling
    target: Target
    architecture: Architecture
    training: Training
    estimated_bytes: int
    previous: str | None = None
    scaling: SizeScaling | None = None

    @property
    def dimensions(self) -> int:
        """2 or 3."""
        return self.architecture.dimensions

    @property
    def patch_shape(self) -> Shape:
        """The patch as z, y, x: a 2D patch has a z of length 1."""
        z, y, x = (1,) * (3 - self.dimensions) + self.patch_size
        return z, y, x

    @property
    def num_input_channels(self) -> int:
        """Channels of the network's input."""
        return sum(item.channels for item in self.inputs)

    @property
    def num_previous_channels(self) -> int:
        """Channels of that input that hold the previous configuration's segmentation; 0 where there is none."""
        return sum(item.channels for item in self.inputs if item.kind == "previous")

    @property
    def previous_resampling(self) -> Resampling | None:
        """How labels of the previous segmentation are resampled; None: its logits come straight to this grid."""
        by_label = any(item.kind == "previous" and item.through == "segmentation" for item in self.inputs)
        return self.resampling if by_label else None

    def __post_init__(self) -> None:
        _check_configuration(self)


@dataclass(frozen=True, kw_only=True)
class Reason:
    """Why a value is what it is: ``about`` names the field, ``rule`` the rule that set it, ``because`` the numbers."""

    about: str
    rule: str
    because: str


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All decisions of a run. It is enough to predict: no dataset is needed at inference.

    Attributes:
        format: version of this record's JSON.
        dataset: the dataset's name.
        planner: name in ``planners.PLANNERS``.
        budget: the memory it was made for.
        axis_order: axis i of a preprocessed array is axis ``axis_order[i]`` of the image as read (z, y, x).
        channels, labels: copied from the fingerprint.
        configurations: at least one; names are unique.
        reasons: one or more per decision.
    """

    format: int = FORMAT
    dataset: str
    planner: str
    budget: MemoryBudget
    axis_order: tuple[int, int, int]
    channels: tuple[Channel, ...]
    labels: Labels
    configurations: tuple[Configuration, ...]
    reasons: tuple[Reason, ...] = ()

    def __post_init__(self) -> None:
        names = [item.name for item in self.configurations]
        if self.format != FORMAT:
            raise PlanError(f"plan has format {self.format}; this version reads {FORMAT}. Make the plan again")
        if not names:
            raise PlanError("plan has no configuration")
        if len(set(names)) != len(names):
            raise PlanError(f"plan names a configuration twice: {', '.join(names)}")
        if sorted(self.axis_order) != [0, 1, 2]:
            raise PlanError(f"axis_order {list(self.axis_order)} is no permutation of 0, 1, 2")
        for item in self.configurations:
            if len(item.normalization) != len(self.channels) or len(item.use_mask_for_norm) != len(self.channels):
                raise PlanError(f"{item.name}.normalization needs one entry per channel ({len(self.channels)})")
        for item in self.configurations:
            _check_previous(item, self)
            strange = {index for pair in item.training.mirror_swaps for index in pair} - set(
                range(self.labels.num_classes)
            )
            if strange:
                raise PlanError(
                    f"{item.name}.training.mirror_swaps names the class {min(strange)}; possible are 0 to "
                    f"{self.labels.num_classes - 1}"
                )

    def configuration(self, name: str) -> Configuration:
        """Find a configuration by name.

        Raises:
            PlanError: there is none; the message lists those there are.
        """
        for item in self.configurations:
            if item.name == name:
                return item
        known = ", ".join(item.name for item in self.configurations)
        raise PlanError(f"plan has no configuration {name!r}; it has: {known}")


def _check_previous(item: Configuration, plan: Plan) -> None:
    """Check that a cascade leads to a first configuration, and that its input has one channel per foreground class."""
    fed = [part for part in item.inputs if part.kind == "previous"]
    if [part.name for part in fed] != ([] if item.previous is None else [item.previous]):
        raise PlanError(f"{item.name}.previous is {item.previous}; inputs need one of kind previous with that name")
    if fed and fed[0].channels != plan.labels.num_classes - 1:
        raise PlanError(
            f"{item.name}.inputs: the previous segmentation has {plan.labels.num_classes - 1} channels, one per "
            f"foreground class, not {fed[0].channels}"
        )
    seen = [item.name]
    while item.previous is not None:
        if item.previous in seen:
            raise PlanError(f"{item.name}.previous leads in a circle: {' → '.join([*seen, item.previous])}")
        seen.append(item.previous)
        item = plan.configuration(item.previous)


def _check_configuration(item: Configuration) -> None:
    if not is_file_name(item.name):
        raise PlanError(f"a configuration is named {shown(item.name)}; folders are named after it. Choose letters")
    dimensions = item.architecture.dimensions
    if dimensions not in (2, 3):
        raise PlanError(f"{item.name}.architecture.dimensions is {dimensions}; must be 2 or 3")
    for name in ("spacing_mm", "median_shape", "patch_size", "output_size"):
        if len(getattr(item, name)) != dimensions:
            raise PlanError(f"{item.name}.{name} has {len(getattr(item, name))} entries; needs {dimensions}")
    if min(item.spacing_mm) <= 0:
        raise PlanError(f"{item.name}.spacing_mm is {list(item.spacing_mm)}; millimetres must be above 0")
    if item.batch_size < 1:
        raise PlanError(f"{item.name}.batch_size is {item.batch_size}; must be at least 1")
    check_architecture(item.architecture, f"{item.name}.architecture")
    check_training(item.training, dimensions, f"{item.name}.training")
    if item.scaling is not None:
        check_scaling(item.scaling, f"{item.name}.scaling")
    for axis in range(dimensions):
        divisor = math.prod(stage.stride[axis] for stage in item.architecture.stages)
        size = item.patch_size[axis]
        if size < divisor or size % divisor:
            low, high = max(divisor, size // divisor * divisor), (size // divisor + 1) * divisor
            raise PlanError(
                f"{item.name}.patch_size[{axis}] is {size}; the strides need a multiple of {divisor} "
                f"(possible: {' or '.join(str(value) for value in sorted({low, high}))})"
            )
