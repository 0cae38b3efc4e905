"""Compiled inner loops for training and prediction on a CPU: built once with the machine's own C compiler.

Convolutions with kernel 3 need a third to an eighth of the multiplications (``winograd.c``), normalization with leaky
ReLU takes two passes over memory (``norm.c``), a transposed convolution writes beside the skip connection
(``upsample.c``); in prediction all other convolutions are plain matrix products (``direct.c``), and labels are found on
the image's grid without the logits there (``largest.c``). All in single precision, channels-last. Where there is no
compiler, or the result is wrong on a self-test, torch's and numpy's own operators are used; tests hold both to the same
numbers.

Two switches in the environment: ``AUTOSEG_NATIVE=0`` does without, ``AUTOSEG_CACHE`` names the folder for the compiled
file and for what ``measured`` keeps (default ``~/.cache/autoseg``).
"""

import atexit
import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

SOURCES = ("winograd.c", "direct.c", "upsample.c", "norm.c", "largest.c")
HEADERS = ("gemm.h", "scratch.h", "norm_body.h")
FLAGS = ("-O3", "-march=native", "-fopenmp", "-fPIC", "-shared", "-Wno-psabi")

# glibc's mallopt parameters (malloc.h)
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -3, -4

_MMAP_THRESHOLD, _MMAP_MAX = 2**17, 2**16
"""glibc's own settings (mallopt(3)): bytes from which a block has pages of its own; how many such blocks may be."""

_POINTER, _LONG, _DOUBLE = ctypes.c_void_p, ctypes.c_int64, ctypes.c_double
_SIGNATURES: dict[str, tuple[type, ...]] = {
    "winograd_kernel": (_POINTER,) * 3 + (_LONG,),
    "winograd_forward": (_POINTER,) * 5 + (_LONG,),
    "winograd_weights": (_POINTER,) * 6 + (_LONG,),
    "direct_kernel": (_POINTER,) * 2 + (_LONG,) * 2,
    "direct_forward": (_POINTER,) * 5 + (_LONG,),
    "upsample_forward": (_POINTER,) * 6 + (_LONG,),
    "upsample_coarse": (_POINTER,) * 4 + (_LONG,),
    "upsample_weights": (_POINTER,) * 5 + (_LONG,),
    "largest_upsampled": (_POINTER,) * 7,
    "norm_forward_float": (_POINTER,) * 7 + (_LONG,) * 3 + (_DOUBLE,) * 2 + (_LONG,),
    "norm_forward_bf16": (_POINTER,) * 7 + (_LONG,) * 3 + (_DOUBLE,) * 2 + (_LONG,),
    "norm_backward_float": (_POINTER,) * 2 + (_LONG,) + (_POINTER,) * 9 + (_LONG,) * 3 + (_DOUBLE, _LONG),
    "norm_backward_bf16": (_POINTER,) * 2 + (_LONG,) + (_POINTER,) * 9 + (_LONG,) * 3 + (_DOUBLE, _LONG),
}


class Kernels(NamedTuple):
    """The compiled functions, or None and why there are none."""

    library: ctypes.CDLL | None
    reason: str


@functools.cache
def kernels() -> Kernels:
    """Give the compiled functions; the first call of all compiles them (two seconds), later ones load the file."""
    if os.environ.get("AUTOSEG_NATIVE", "1") == "0":
        return Kernels(None, "AUTOSEG_NATIVE=0")
    compiler = next((path for name in ("cc", "gcc", "clang") if (path := shutil.which(name))), None)
    if compiler is None:
        return Kernels(None, "there is no C compiler (cc, gcc, clang)")
    try:
        return Kernels(_declare(ctypes.CDLL(str(build(compiler, cache_folder())))), f"compiled with {compiler}")
    except subprocess.CalledProcessError as fault:
        lines = (fault.stderr or "").strip().splitlines() or [str(fault)]
        return Kernels(None, f"{compiler} cannot compile them: {lines[0]}")
    except OSError as fault:
        return Kernels(None, f"they cannot be built or loaded: {fault}")


def cache_folder() -> Path:
    """The folder of the compiled file: the user's own, made if it is missing; else one that goes with the process."""
    root = (
        os.environ.get("AUTOSEG_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "autoseg"
    )
    try:
        Path(root).mkdir(mode=0o700, parents=True, exist_ok=True)
        return Path(root)
    except OSError:
        folder = Path(tempfile.mkdtemp(prefix="autoseg-"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        return folder


def build(compiler: str, folder: Path, flags: tuple[str, ...] = FLAGS) -> Path:
    """Compile the sources into ``folder`` unless the same text was compiled there for the same kind of processor.

    Raises:
        subprocess.CalledProcessError: the compiler refuses.
        OSError: the folder cannot be written.
    """
    here = Path(__file__).parent
    name = hashlib.sha256(b"".join((here / file).read_bytes() for file in SOURCES + HEADERS))
    name.update(" ".join((compiler, *flags, processor())).encode())
    path = folder / f"kernels-{name.hexdigest()[:16]}.so"
    if not path.exists():
        handle, unfinished = tempfile.mkstemp(suffix=".so", dir=folder)
        os.close(handle)
        try:
            command = [compiler, *flags, *(str(here / file) for file in SOURCES), "-lm", "-o", unfinished]
            subprocess.run(command, check=True, capture_output=True, text=True)
            os.replace(unfinished, path)
        finally:
            Path(unfinished).unlink(missing_ok=True)
    return path


def keep_memory(keep: bool = True) -> bool:
    """Let this process keep freed memory for its next allocation, instead of asking for fresh pages at every step.

    A training step allocates and frees some gigabytes. Faulting their pages in took a third of the processor time
    of a 3D step (benchmarks/train_step.py). True where the C library can do it (glibc).

    With ``keep`` False every large block has pages of its own again, and gives them back. So should the first step be
    made: small things that stay (operators' plans, momentum) then do not come to lie among the feature maps, where
    they would keep the freed memory in pieces for good (a tenth of the process at the least, measured 2026-11).
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    library = ctypes.CDLL(None)
    if not keep:
        settings = {_M_MMAP_THRESHOLD: _MMAP_THRESHOLD, _M_MMAP_MAX: _MMAP_MAX, _M_TRIM_THRESHOLD: _MMAP_THRESHOLD}
        return all(library.mallopt(*setting) for setting in settings.items())
    return bool(library.mallopt(_M_MMAP_MAX, 0)) and bool(library.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1))


def give_back_memory() -> None:
    """Return freed memory to the system now, where the C library can (glibc): after work that is not done again."""
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


def _declare(library: ctypes.CDLL) -> ctypes.CDLL:
    for name, arguments in _SIGNATURES.items():
        function = getattr(library, name)
        function.argtypes, function.restype = arguments, None
    library.norm_chunks.argtypes, library.norm_chunks.restype = (_LONG,), _LONG
    return library


def processor() -> str:
    """Tell what ``-march=native`` depends on: one cache folder may serve several machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        return platform.machine() + platform.processor()
    return next((line for line in lines if line.startswith(("flags", "Features"))), platform.machine())
