"""A training step as a list of operations: what each makes, what it keeps for the way back, when that is freed.

The forward and the backward pass are played through with sizes alone, as PyTorch's autograd does it: a tensor lives
while an operation to come uses it or has kept it, gradients live until they are used. The moment of most bytes is the
peak of the step. ``tests/planners/test_memory.py`` holds what is kept against autograd itself.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

HALF, SINGLE, INTEGER, SHORT = 2, 4, 8, 2
"""Bytes of a number in bf16 or fp16, in fp32, of a class in the loss (int64), of a class in a batch (int16)."""

PARAMETERS, ACTIVATIONS, LOSS, GRADIENTS = "parameters", "activations", "loss", "transient"
"""What bytes are for, as :class:`memory.StepBytes` names it."""


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One operation of the forward pass; tensors are positions in ``Tape.sizes``.

    Attributes:
        inputs: tensors that it reads.
        output: tensor that it makes.
        keeps: tensors that it keeps until its gradient was computed.
        parameters: trained weights (the few numbers of norms and biases are left out).
        scratch: bytes that it needs only while it runs, on either way.
        forward_scratch, backward_scratch: the same on one way.
        shares: its gradient is handed on to all inputs as it is; otherwise each input's gradient is made.
        in_place: the output takes the place of the first input.
        kind: what the bytes of its output are for.
    """

    inputs: tuple[int, ...]
    output: int
    keeps: tuple[int, ...] = ()
    parameters: int = 0
    scratch: int = 0
    forward_scratch: int = 0
    backward_scratch: int = 0
    shares: bool = False
    in_place: bool = False
    kind: str = ACTIVATIONS


@dataclass(kw_only=True)
class Tape:
    """The operations of one training step in the order of the forward pass.

    Attributes:
        half: convolutions compute in half precision (autocast), so that weights and image are copied.
        sizes: bytes of every tensor for the whole batch.
        constants: tensors that need no gradient (the image).
        held: tensors that the program itself holds until the step is over.
        operations: in order.
    """

    half: bool
    sizes: list[int] = field(default_factory=list)
    constants: set[int] = field(default_factory=set)
    held: set[int] = field(default_factory=set)
    operations: list[Operation] = field(default_factory=list)

    def tensor(self, num_bytes: int) -> int:
        """Name a new tensor."""
        self.sizes.append(num_bytes)
        return len(self.sizes) - 1

    def kept_bytes(self) -> int:
        """Bytes of all tensors that the forward pass keeps for the backward pass."""
        return sum(self.sizes[tensor] for tensor in {item for step in self.operations for item in step.keeps})

    def peak(self, resident: Counter[str]) -> Counter[str]:
        """Play the step through and give the bytes by kind at the moment when they are most.

        Args:
            resident: bytes by kind that are there all the time.
        """
        play = _Play(self, resident)
        for position, step in enumerate(self.operations):
            play.forward(position, step)
        for position in reversed(range(len(self.operations))):
            play.backward(position, self.operations[position])
        return play.most


class _Play:
    """The state of memory while a tape is played."""

    def __init__(self, tape: Tape, resident: Counter[str]) -> None:
        self.tape = tape
        self.now, self.most = Counter(resident), Counter(resident)
        self.kinds: dict[int, str] = {step.output: step.kind for step in tape.operations}
        self.last_use: dict[int, int] = {}
        self.first_keeper: dict[int, int] = {}
        for position, step in enumerate(tape.operations):
            self.last_use.update(dict.fromkeys(step.inputs, position))
            for tensor in step.keeps:
                self.first_keeper.setdefault(tensor, position)
        self.gradients: dict[int, int] = {}  # tensor -> place of its gradient
        self.places: list[list[int]] = []  # bytes of a gradient, and how many tensors it still serves

    def forward(self, position: int, step: Operation) -> None:
        if step.in_place:
            self._free(step.inputs[0])
        self.now[step.kind] += self.tape.sizes[step.output]
        self.now[PARAMETERS] += HALF * step.parameters if self.tape.half else 0
        self._note(step.scratch + step.forward_scratch)
        for tensor in dict.fromkeys(step.inputs[step.in_place :]):
            wanted = tensor in self.first_keeper or tensor in self.tape.held or tensor in self.tape.constants
            if self.last_use[tensor] == position and not wanted:
                self._free(tensor)

    def backward(self, position: int, step: Operation) -> None:
        if step.kind != LOSS and step.output not in self.gradients:
            return  # no loss reaches it: what it has kept stays until the step is over
        needing = [tensor for tensor in dict.fromkeys(step.inputs) if tensor not in self.tape.constants]
        if step.shares:
            self._hand_on(step.output, needing)
            self._note(step.scratch + step.backward_scratch)
        else:
            made = [self._make(self.tape.sizes[tensor]) for tensor in needing]
            half_gradients = HALF * step.parameters if self.tape.half else 0
            self.now[PARAMETERS] += SINGLE * step.parameters
            self._note(step.scratch + step.backward_scratch + half_gradients)
            if step.kind != LOSS:
                self._let_go(self.gradients.pop(step.output))
            for tensor, place in zip(needing, made, strict=True):
                self._receive(tensor, place)
        self.now[PARAMETERS] -= HALF * step.parameters if self.tape.half else 0
        for tensor in step.keeps:
            if self.first_keeper[tensor] == position:
                self._free(tensor)

    def _make(self, num_bytes: int) -> int:
        self.places.append([num_bytes, 1])
        self.now[GRADIENTS] += num_bytes
        return len(self.places) - 1

    def _hand_on(self, output: int, needing: Sequence[int]) -> None:
        place = self.gradients.pop(output)
        if self.places[place][1] > 1:  # it still serves another tensor: what is handed on is a new one
            self._let_go(place)
            place = self._make(self.tape.sizes[output])
        self.places[place][1] = len(needing)
        for tensor in needing:
            self._receive(tensor, place)

    def _receive(self, tensor: int, place: int) -> None:
        """Add a gradient to the one that is there: in its place, unless that serves another tensor as well."""
        before = self.gradients.get(tensor)
        if before is None:
            self.gradients[tensor] = place
            return
        if self.places[before][0] != self.tape.sizes[tensor] or self.places[before][1] > 1:
            self.gradients[tensor] = self._make(self.tape.sizes[tensor])
            self._note(0)
            self._let_go(before)
        self._let_go(place)

    def _let_go(self, place: int) -> None:
        self.places[place][1] -= 1
        if not self.places[place][1]:
            self.now[GRADIENTS] -= self.places[place][0]

    def _free(self, tensor: int) -> None:
        if tensor not in self.tape.held and tensor not in self.tape.constants:
            self.now[self.kinds[tensor]] -= self.tape.sizes[tensor]

    def _note(self, scratch: int) -> None:
        if sum(self.now.values()) + scratch > sum(self.most.values()):
            self.most = self.now + Counter({GRADIENTS: scratch})


@dataclass(kw_only=True)
class Map:
    """A feature map while a network is written down: its tensor, channels and size."""

    tensor: int
    channels: int
    size: tuple[int, ...]

    @property
    def numbers(self) -> int:
        """Numbers of one sample."""
        return self.channels * math.prod(self.size)


class Recorder:
    """Writes the operations of a network down, block by block, for a batch of patches."""

    def __init__(self, batch_size: int, *, half: bool, scratch: bool) -> None:
        """Begin.

        Args:
            batch_size: patches per step.
            half: convolutions compute in half precision.
            scratch: convolutions copy what they read and make into another layout (cuDNN).
        """
        self.tape = Tape(half=half)
        self.batch_size, self.item = batch_size, HALF if half else SINGLE
        self.scratch = scratch

    def image(self, channels: int, size: Sequence[int]) -> Map:
        """The input, in the precision of the first convolution."""
        made = self._map(channels, size)
        self.tape.constants.add(made.tensor)
        return made

    def convolve(self, x: Map, channels: int, kernel: Sequence[int], stride: Sequence[int]) -> Map:
        """A convolution that pads; it keeps what it reads."""
        made = self._map(channels, [edge // step for edge, step in zip(x.size, stride, strict=True)])
        return self._weigh(x, made, channels * x.channels * math.prod(kernel))

    def head(self, x: Map, channels: int) -> Map:
        """The convolution that makes logits, which the trainer holds until the step is over."""
        made = self.convolve(x, channels, (1,) * len(x.size), (1,) * len(x.size))
        self.tape.operations[-1] = replace(self.tape.operations[-1], kind=LOSS)
        self.tape.held.add(made.tensor)
        return made

    def normalize(self, x: Map, *, activate: bool) -> Map:
        """Instance norm, which keeps what it reads, and leaky ReLU in its place, which keeps what it makes."""
        made = self._map(x.channels, x.size)
        keeps = (x.tensor, made.tensor) if activate else (x.tensor,)
        self._write(Operation(inputs=(x.tensor,), output=made.tensor, keeps=keeps))
        return made

    def pool(self, x: Map, stride: Sequence[int]) -> Map:
        """Average pooling; keeps what it reads."""
        made = self._map(x.channels, [edge // step for edge, step in zip(x.size, stride, strict=True)])
        self._write(Operation(inputs=(x.tensor,), output=made.tensor, keeps=(x.tensor,)))
        return made

    def add(self, x: Map, shortcut: Map) -> Map:
        """Add to ``x`` in its place, then leaky ReLU in the same place, which keeps the result."""
        made = self._map(x.channels, x.size)
        step = Operation(
            inputs=(x.tensor, shortcut.tensor),
            output=made.tensor,
            keeps=(made.tensor,),
            shares=True,
            in_place=True,
            backward_scratch=self.tape.sizes[made.tensor],
        )
        self._write(step)
        return made

    def upsample(self, x: Map, channels: int, stride: Sequence[int]) -> Map:
        """A transposed convolution whose kernel is its stride; its gradient is copied out of the joined one."""
        made = self._map(channels, [edge * step for edge, step in zip(x.size, stride, strict=True)])
        parameters = channels * x.channels * math.prod(stride)
        return self._weigh(x, made, parameters, backward_scratch=self.tape.sizes[made.tensor])

    def join(self, x: Map, skip: Map) -> Map:
        """Two maps side by side; nothing is kept, gradients are views."""
        made = self._map(x.channels + skip.channels, x.size)
        self._write(Operation(inputs=(x.tensor, skip.tensor), output=made.tensor, shares=True))
        return made

    def lose(self, logits: Map) -> None:
        """Softmax, Dice and cross-entropy: what ``targets.losses`` makes of one output.

        Kept: the probabilities, that of the voxel's class, and the class (int64). On the way: the logits in fp32; back:
        the gradient in fp32, and three numbers per voxel.
        """
        voxels = self.batch_size * math.prod(logits.size)
        dense = SINGLE * voxels * logits.channels
        made = self.tape.tensor(dense + SINGLE * voxels)
        self._write(
            Operation(
                inputs=(logits.tensor,),
                output=made,
                keeps=(made,),
                forward_scratch=dense if self.tape.half else 2 * SINGLE * voxels,
                backward_scratch=(dense if self.tape.half else 0) + 3 * SINGLE * voxels,
                kind=LOSS,
            )
        )

    def _map(self, channels: int, size: Sequence[int]) -> Map:
        tensor = self.tape.tensor(self.item * self.batch_size * channels * math.prod(size))
        return Map(tensor=tensor, channels=channels, size=tuple(size))

    def _weigh(self, x: Map, made: Map, parameters: int, backward_scratch: int = 0) -> Map:
        layouts = self.tape.sizes[x.tensor] + self.tape.sizes[made.tensor] if self.scratch else 0
        step = Operation(
            inputs=(x.tensor,),
            output=made.tensor,
            keeps=(x.tensor,),
            parameters=parameters,
            scratch=layouts,
            backward_scratch=backward_scratch,
        )
        self._write(step)
        return made

    def _write(self, step: Operation) -> None:
        self.tape.operations.append(step)
