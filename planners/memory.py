"""What a training step holds in the device's memory, by arithmetic.

Patch and batch are fitted to the budget by nnU-Net's own measure, the feature-map elements of ``network_size``: it is
coarse, but it makes the same decisions. The *bytes* here are our prediction of what a training step will hold at its
peak. They inform (every plan prints them) and guard (the step down to what fits begins with them).
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from planners.decision import Decision, byte_size
from planners.network_size import FAMILIES, PLAIN_UNET, num_parameters
from planners.plan import Architecture, Configuration, MemoryBudget, Stage
from planners.records import PlanError
from planners.tape import ACTIVATIONS, GRADIENTS, INTEGER, LOSS, PARAMETERS, SHORT, SINGLE, Map, Recorder, Tape

BYTES_RESIDENT = 2 * SINGLE
"""Per parameter, all the time: weight and momentum (SGD) in fp32. Gradients and half-precision copies come and go with
the step."""

BYTES_UPDATING = 4 * SINGLE
"""Per parameter while the optimizer updates: weight, momentum, gradient, and the gradient with its weight decay, which
``torch.optim.SGD`` makes for all parameters at once (foreach; PyTorch 2.13 on CUDA)."""


BYTES_OF_MAPS: dict[str, Callable[[int], int]] = {
    "foreground": lambda outputs: INTEGER,
    "boundary": lambda outputs: INTEGER + SINGLE,
    "flow": lambda outputs: outputs * SINGLE,
    "affinity": lambda outputs: outputs * (SINGLE + 1),
}
"""Per voxel of an output, what targets of objects make of a label: indices or a number per output, and weights (of
``affinity`` a yes or no per output). Classes and ids are two layers of up to four bytes."""


@dataclass(frozen=True, kw_only=True)
class StepBytes:
    """Bytes held at the peak of one training step.

    Without what no arithmetic knows: the device's own context (0.3 to 0.6 GB with CUDA), the allocator's
    fragmentation, augmentation of the next batch.

    Attributes:
        parameters: weights, momentum, and the gradients and half-precision copies there are at the peak.
        activations: feature maps kept for the backward pass, with the input.
        loss: logits of every output, what the loss keeps of them, the labels.
        transient: gradients of feature maps and work space.
    """

    parameters: int
    activations: int
    loss: int
    transient: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.parameters + self.activations + self.loss + self.transient

    def wording(self) -> str:
        """Say what the total is made of."""
        return (
            f"{byte_size(self.activations)} activations, {byte_size(self.transient)} gradients, "
            f"{byte_size(self.parameters)} weights, {byte_size(self.loss)} loss"
        )


def step_bytes(
    architecture: Architecture,
    patch_size: Sequence[int],
    batch_size: int,
    num_input_channels: int,
    num_outputs: int,
    *,
    half: bool = True,
    scratch: bool = True,
) -> StepBytes:
    """Predict what one training step holds at its peak.

    Args:
        architecture: of a family in :data:`network_size.FAMILIES`.
        patch_size: divisible by the product of the strides.
        batch_size: patches per step.
        num_input_channels: channels of the network's input.
        num_outputs: channels of each output.
        half: mixed precision (bf16 or fp16 by autocast); else everything in fp32.
        scratch: with the work space of convolutions on a GPU: a copy of what they read and make, since cuDNN's half
            precision kernels want channels last. Assumption; on a CPU there is none.

    Raises:
        PlanError: the family is unknown.
    """
    tape = record_step(
        architecture, patch_size, batch_size, num_input_channels, num_outputs, half=half, scratch=scratch
    )
    parameters = num_parameters(architecture, num_input_channels, num_outputs)
    voxels = batch_size * math.prod(patch_size)
    outputs = architecture.outputs
    labels = voxels * SHORT + sum(voxels // math.prod(output.stride) * INTEGER for output in outputs)
    image = voxels * num_input_channels * SINGLE if half else 0  # in fp32 the batch's image is what the network keeps
    resident = Counter({PARAMETERS: BYTES_RESIDENT * parameters, ACTIVATIONS: image, LOSS: labels})
    for tensor in tape.constants:
        resident[ACTIVATIONS] += tape.sizes[tensor]
    peak = tape.peak(resident)
    if BYTES_UPDATING * parameters + resident[LOSS] > sum(peak.values()):
        peak = Counter({PARAMETERS: BYTES_UPDATING * parameters, LOSS: resident[LOSS]})
    return StepBytes(
        parameters=peak[PARAMETERS], activations=peak[ACTIVATIONS], loss=peak[LOSS], transient=peak[GRADIENTS]
    )


def configuration_bytes(item: Configuration, *, half: bool = True, scratch: bool = True) -> StepBytes:
    """Predict the training step of a configuration as it is. Arguments and errors as for :func:`step_bytes`."""
    step = step_bytes(
        item.architecture,
        item.patch_size,
        item.batch_size,
        item.num_input_channels,
        item.target.num_outputs,
        half=half,
        scratch=scratch,
    )
    return replace(step, loss=step.loss + _bytes_of_objects(item))


def _bytes_of_objects(item: Configuration) -> int:
    """Give what a target of objects holds all the time beyond one of classes: layers of ids, its maps and weights."""
    per_voxel = BYTES_OF_MAPS.get(item.target.name)
    if per_voxel is None:
        return 0
    voxels = item.batch_size * math.prod(item.patch_size)
    placed = sum(voxels // math.prod(output.stride) for output in item.architecture.outputs)
    return voxels * (2 * SINGLE - SHORT) + placed * (per_voxel(item.target.num_outputs) - INTEGER)


def explain_bytes(step: StepBytes, budget: MemoryBudget) -> Decision[int]:
    """Say what a training step should hold at its peak, and warn where that is above the budget."""
    because = step.wording()
    if step.total > budget.device_bytes:
        because += f"; above {byte_size(budget.device_bytes)}: a smaller batch_size or patch_size may be needed"
    return Decision(value=step.total, rule="step-bytes", because=because)


def record_step(
    architecture: Architecture,
    patch_size: Sequence[int],
    batch_size: int,
    num_input_channels: int,
    num_outputs: int,
    *,
    half: bool = True,
    scratch: bool = True,
) -> Tape:
    """Write down the operations of a training step: network, heads, losses. Arguments as for :func:`step_bytes`."""
    if architecture.family not in FAMILIES:
        raise PlanError(
            f"no memory arithmetic for networks of family {architecture.family!r} (known: {', '.join(FAMILIES)})"
        )
    recorder = Recorder(batch_size, half=half, scratch=scratch)
    skips = _encode(recorder, recorder.image(num_input_channels, patch_size), architecture)
    features = _decode(recorder, skips, architecture)
    logits = [recorder.head(x, num_outputs) for x in features[: max(len(architecture.outputs), 1)]]
    for x, output in zip(logits, architecture.outputs, strict=False):
        if output.loss_weight:
            recorder.lose(x)
    return recorder.tape


def _encode(recorder: Recorder, x: Map, architecture: Architecture) -> list[Map]:
    """Write the encoder down; give the last map of each stage."""
    skips = []
    if architecture.family != PLAIN_UNET:
        finest = architecture.stages[0]
        x = _block(recorder, x, finest.features, finest.kernel, (1,) * architecture.dimensions)
    for stage in architecture.stages:
        for index in range(stage.num_blocks):
            stride = (1,) * architecture.dimensions if index else stage.stride
            if architecture.family == PLAIN_UNET:
                x = _block(recorder, x, stage.features, stage.kernel, stride)
            else:
                x = _residual_block(recorder, x, stage, stride)
        skips.append(x)
    return skips


def _decode(recorder: Recorder, skips: Sequence[Map], architecture: Architecture) -> list[Map]:
    """Write the decoder down; give the last map of each stage, full resolution first."""
    stages, ones = architecture.stages, (1,) * architecture.dimensions
    features, x = list(skips), skips[-1]
    for index, (stage, deeper) in reversed(list(enumerate(pairwise(stages)))):
        x = recorder.join(recorder.upsample(x, stage.features, deeper.stride), skips[index])
        for _ in range(architecture.num_decoder_blocks[index]):
            x = _block(recorder, x, stage.features, stage.kernel, ones)
        features[index] = x
    return features


def _block(recorder: Recorder, x: Map, channels: int, kernel: Sequence[int], stride: Sequence[int]) -> Map:
    return recorder.normalize(recorder.convolve(x, channels, kernel, stride), activate=True)


def _residual_block(recorder: Recorder, x: Map, stage: Stage, stride: Sequence[int]) -> Map:
    """Two convolutions; beside them average pooling where the size changes, a projection where the width does."""
    ones = (1,) * len(stride)
    inner = _block(recorder, x, stage.features, stage.kernel, stride)
    inner = recorder.normalize(recorder.convolve(inner, stage.features, stage.kernel, ones), activate=False)
    if max(stride) > 1:
        x = recorder.pool(x, stride)
    if x.channels != stage.features:
        x = recorder.normalize(recorder.convolve(x, stage.features, ones, ones), activate=False)
    return recorder.add(inner, x)
