"""Not a test: one prediction in a process of its own, under a limit of its writable memory.

    python memory_worker.py RUN IMAGE.npy RESULT.npy LIMIT_MB [whole]

The limit is counted from what the process holds once the model is open. ``whole`` lets it try the whole way anyway.
"""

import resource
import sys

import numpy as np
import torch

from autoseg.data.io import image_from_array
from autoseg.data.parallel import HOST_FRACTION
from autoseg.inference import case_memory, passes, sliding_rows
from autoseg.inference.case_memory import MemoryRoom
from autoseg.inference.predictor import Predictor
from autoseg.room import _status_bytes

passes.CPU_BATCH_VOXELS = case_memory.CPU_BATCH_VOXELS = 2**15
sliding_rows.CHUNK_BYTES = case_memory.CHUNK_BYTES = 2**20
case_memory.WORKING_BYTES = 2**26


def main() -> None:
    run, image_file, result, limit_mb, *forced = sys.argv[1:]
    torch.set_num_threads(1)
    predictor = Predictor(run, device="cpu")
    array = np.load(image_file)
    image = image_from_array(array, (1.0, 1.0, 1.0))
    predictor.predict(image_from_array(array[:16, :24, :24], (1.0, 1.0, 1.0)))  # what is loaded once is loaded now
    needs = predictor.needs(image, "")
    limit = int(float(limit_mb) * 2**20)
    if limit:
        before = _status_bytes("VmData")
        resource.setrlimit(resource.RLIMIT_DATA, (before + limit, resource.RLIM_INFINITY))
    if forced:
        MemoryRoom.takes_whole = lambda self, needs, name: True
    print(f"whole {needs.whole} slabs {needs.slabs} free {limit * HOST_FRACTION:.0f}")
    before = _peak_after_reset()
    segmentation = predictor.predict(image)
    print(f"peak {_status_bytes('VmHWM') - before}")
    np.save(result, segmentation)


def _peak_after_reset() -> int:
    """Have the kernel forget the peak of resident memory so far, and give what is resident."""
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    return _status_bytes("VmRSS")


main()
