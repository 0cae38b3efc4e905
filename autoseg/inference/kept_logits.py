"""Logits kept on disk for judging ensembles: a byte per number, compressed, read back slab by slab.

Where only the differences between the logits of a voxel count (softmax), what is kept is how far each lies below the
largest; elsewhere (sigmoid) the logit itself with its sign. Either is a distance from 0 in steps that grow with it: a
hundredth of a logit near 0, where probabilities change, a few per cent far away, where they do not, but where
interpolation between voxels still needs to know how far. The largest logit of a voxel and all signs stay what they are.

A file is one line of JSON (shape, scale, bytes of each slab) and the slabs: per output and slice the differences to
the neighbours in the plane, which are small numbers, compressed by zlib's run-length mode.

What it costs and how little it changes stands in ``docs/choosing.md`` (measured by ``benchmarks/kept_logits.py``).
"""

import json
import math
import threading
import zlib
from pathlib import Path

import numpy as np

from autoseg.errors import RunFolderError
from autoseg.run_folder import write_atomic

FORMAT = "autoseg-logits-1"

KNEE = 0.1
"""Where steps begin to grow, in logits. Measured 2026-11 on a trained network: of 10⁶ voxels 8 are decoded otherwise
(16 with 1, 9 with 0.05), with a sign 12 (41, 7); the smaller, the smaller the files, by a few per cent."""

LEAST_REACH = 8.0  # assumption: a network that is never surer than this is kept as finely as one that is

SLAB_BYTES = 2**20
"""Bytes of a slab before compression: some slices, so that little is decoded that nobody asked for. Assumption."""

NUM_CACHED = 2  # neighbouring slabs of an output grid share an input slab


def logits_bytes(logits_KZYX: np.ndarray, *, relative: bool) -> bytes:
    """Give the content of a file of logits.

    Args:
        logits_KZYX: float32 (outputs, z, y, x), finite.
        relative: whether only the differences between the logits of a voxel count (``Target.relative``).
    """
    num_outputs, depth, height, width = logits_KZYX.shape
    reach = LEAST_REACH
    thickness = max(SLAB_BYTES // max(num_outputs * height * width, 1), 1)
    places = [slice(start, min(start + thickness, depth)) for start in range(0, depth, thickness)]
    for place in places:
        reach = max(reach, float(np.abs(_distances(logits_KZYX[:, place], relative)).max(initial=0.0)))
    slabs = [_pack(_quantise(_distances(logits_KZYX[:, place], relative), reach, relative)) for place in places]
    head = {
        "format": FORMAT,
        "shape": list(logits_KZYX.shape),
        "relative": relative,
        "reach": reach,
        "thickness": thickness,
        "bytes": [len(slab) for slab in slabs],
    }
    return json.dumps(head).encode() + b"\n" + b"".join(slabs)


def keep_logits(path: Path, logits_KZYX: np.ndarray, *, relative: bool) -> None:
    """Write logits whole or not at all; arguments as of ``logits_bytes``."""
    write_atomic(path, logits_bytes(logits_KZYX, relative=relative))


class KeptLogits:
    """Logits in a file, decoded when they are asked for; threads may ask at once.

    Attributes:
        shape: outputs, z, y, x.
    """

    def __init__(self, path: Path) -> None:
        """Open a file that ``keep_logits`` wrote.

        Raises:
            RunFolderError: it is missing, damaged, or something else.
        """
        self.path = path
        try:
            with path.open("rb") as file:
                line = file.readline(1 << 20)
                head = json.loads(line)
                if head["format"] != FORMAT:
                    raise ValueError(f"format {head['format']}")
                self.shape = tuple(int(size) for size in head["shape"])
                self._thickness, sizes = int(head["thickness"]), [int(size) for size in head["bytes"]]
                self._values = _values(float(head["reach"]), bool(head["relative"]))
        except (OSError, ValueError, KeyError, TypeError) as fault:
            raise self._damaged(fault) from fault
        self._ends = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)]) + len(line)
        self._cached: dict[int, np.ndarray] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """Count the outputs."""
        return self.shape[0]

    def rows(self, start: int, stop: int) -> np.ndarray:
        """Decode the slices ``start`` to ``stop`` (exclusive); float32, a new array (outputs, slices, y, x).

        Raises:
            RunFolderError: the file is damaged.
        """
        result = np.empty((self.shape[0], stop - start, *self.shape[2:]), dtype=np.float32)
        for index in range(start // self._thickness, -(-stop // self._thickness)):
            first = index * self._thickness
            low, high = max(start, first), min(stop, first + self._thickness)
            part = self._slab(index)[:, low - first : high - first]
            np.take(self._values, part, out=result[:, low - start : high - start], mode="clip")
        return result

    def read(self) -> np.ndarray:
        """Decode all."""
        return self.rows(0, self.shape[1])

    def _slab(self, index: int) -> np.ndarray:
        with self._lock:
            if index in self._cached:
                return self._cached[index]
        first = index * self._thickness
        shape = (self.shape[0], min(self._thickness, self.shape[1] - first), *self.shape[2:])
        try:
            with self.path.open("rb") as file:
                file.seek(int(self._ends[index]))
                found = _unpack(file.read(int(self._ends[index + 1] - self._ends[index])), shape)
        except (OSError, ValueError, zlib.error) as fault:
            raise self._damaged(fault) from fault
        with self._lock:
            self._cached[index] = found
            while len(self._cached) > NUM_CACHED:
                del self._cached[next(iter(self._cached))]
        return found

    def _damaged(self, fault: Exception) -> RunFolderError:
        what = fault.strerror if isinstance(fault, OSError) else fault
        return RunFolderError(
            f"{self.path} is no whole file of logits ({what}). Delete it and run the same command again: its fold is "
            "then validated anew"
        )


def _distances(logits_KZYX: np.ndarray, relative: bool) -> np.ndarray:
    """Give what is kept of the logits: how far each lies from the largest of its voxel (≤ 0), or itself."""
    return logits_KZYX - logits_KZYX.max(axis=0) if relative else logits_KZYX


def _steps(relative: bool) -> int:
    """Count the steps away from 0: one byte, for which a sign takes half."""
    return 255 if relative else 127


def _quantise(distances: np.ndarray, reach: float, relative: bool) -> np.ndarray:
    """Number the steps, uint8; what is not 0 does not become 0."""
    steps = _steps(relative)
    size = np.abs(distances, dtype=np.float32)
    size /= np.float32(KNEE)
    np.log1p(size, out=size)
    size *= np.float32(steps / math.log1p(reach / KNEE))
    np.rint(size, out=size)
    np.clip(size, (distances != 0).astype(np.float32), np.float32(steps), out=size)
    if not relative:
        size = np.copysign(size, distances) + np.float32(steps)
    return size.astype(np.uint8)


def _values(reach: float, relative: bool) -> np.ndarray:
    """Give the logit that each number stands for, float32."""
    steps = _steps(relative)
    away = KNEE * np.expm1(np.arange(steps + 1) * (math.log1p(reach / KNEE) / steps))
    values = -away if relative else np.concatenate([-away[:0:-1], away])
    return values.astype(np.float32)


def _pack(numbers_KZYX: np.ndarray) -> bytes:
    differences = numbers_KZYX.copy()
    differences[..., 1:] -= numbers_KZYX[..., :-1]  # modulo 256, and so is the way back
    rows = differences.copy()
    differences[..., 1:, :] -= rows[..., :-1, :]
    # Runs and Huffman codes alone: what is left is noise, in which searching for repeated strings finds nothing.
    packer = zlib.compressobj(1, zlib.DEFLATED, -zlib.MAX_WBITS, zlib.DEF_MEM_LEVEL, zlib.Z_RLE)
    return packer.compress(differences.data) + packer.flush()


def _unpack(packed: bytes, shape: tuple[int, ...]) -> np.ndarray:
    numbers = np.frombuffer(zlib.decompress(packed, -zlib.MAX_WBITS), dtype=np.uint8).reshape(shape)
    numbers = np.add.accumulate(numbers, axis=2, dtype=np.uint8)
    return np.add.accumulate(numbers, axis=3, dtype=np.uint8)
