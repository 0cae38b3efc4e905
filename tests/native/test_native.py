"""Compiled operators: built once, found again, and done without where they cannot be built."""

import ctypes
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from autoseg import native

COMPILER = next((path for name in ("cc", "gcc", "clang") if (path := shutil.which(name))), None)
needs_compiler = pytest.mark.skipif(COMPILER is None, reason="no C compiler")


@pytest.fixture(autouse=True)
def forget():
    """Look anew in each test."""
    native.kernels.cache_clear()
    yield
    native.kernels.cache_clear()


@needs_compiler
def test_built_once_for_the_same_text_and_processor(tmp_path, monkeypatch):
    flags = tuple(flag for flag in native.FLAGS if flag != "-O3")
    first = native.build(COMPILER, tmp_path, flags)
    made = first.stat().st_mtime_ns
    assert native.build(COMPILER, tmp_path, flags) == first
    assert first.stat().st_mtime_ns == made
    assert [item.name for item in tmp_path.iterdir()] == [first.name], "nothing unfinished is left"
    library = native._declare(ctypes.CDLL(str(first)))
    assert library.norm_chunks(1) == 1
    monkeypatch.setattr(native, "processor", lambda: "another one")
    monkeypatch.setattr(native.subprocess, "run", lambda *_, **__: pytest.fail("compiles"), raising=True)
    with pytest.raises(pytest.fail.Exception):
        native.build(COMPILER, tmp_path, flags)
    assert [item.name for item in tmp_path.iterdir()] == [first.name]


def test_every_function_is_declared_as_it_is_written():
    """Pointers, integers and doubles of the C text, in order, against the signatures."""
    folder = Path(native.__file__).parent
    text = "".join((folder / name).read_text() for name in (*native.SOURCES, "norm_body.h"))
    kinds = {ctypes.c_void_p: "*", ctypes.c_int64: "i64 ", ctypes.c_double: "double "}
    for name, signature in native._SIGNATURES.items():
        written = name.replace("norm_forward_float", "FORWARD").replace("norm_forward_bf16", "FORWARD")
        written = written.replace("norm_backward_float", "BACKWARD").replace("norm_backward_bf16", "BACKWARD")
        start = text.index(f"void {written}(") + len(f"void {written}(")
        parameters = text[start : text.index(")", start)].split(",")
        assert len(parameters) == len(signature), name
        for parameter, kind in zip(parameters, signature, strict=True):
            assert kinds[kind] in parameter, f"{name}: {parameter}"


def test_a_switch_does_without(monkeypatch):
    monkeypatch.setenv("AUTOSEG_NATIVE", "0")
    assert native.kernels() == (None, "AUTOSEG_NATIVE=0")


def test_no_compiler_is_a_reason(monkeypatch):
    monkeypatch.delenv("AUTOSEG_NATIVE", raising=False)
    monkeypatch.setattr(native.shutil, "which", lambda name: None)
    assert native.kernels().library is None
    assert "no C compiler" in native.kernels().reason


def test_a_compiler_that_refuses_is_a_reason(monkeypatch, tmp_path):
    monkeypatch.delenv("AUTOSEG_NATIVE", raising=False)
    monkeypatch.setenv("AUTOSEG_CACHE", str(tmp_path))
    refusing = tmp_path / "refuse"
    refusing.write_text("#!/bin/sh\necho 'unknown flag -fopenmp' >&2\nexit 1\n")
    refusing.chmod(0o755)
    monkeypatch.setattr(native.shutil, "which", lambda name: str(refusing))
    found = native.kernels()
    assert found.library is None
    assert "unknown flag -fopenmp" in found.reason
    assert not list(tmp_path.glob("*.so"))


def test_an_unwritable_folder_falls_back(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("AUTOSEG_CACHE", str(tmp_path / "file" / "folder"))
    folder = native.cache_folder()
    assert folder.is_dir()
    folder.rmdir()
    monkeypatch.setenv("AUTOSEG_CACHE", str(tmp_path / "mine"))
    assert native.cache_folder() == tmp_path / "mine"


@needs_compiler
def test_what_is_compiled_beside_an_unwritable_folder_goes_with_the_process(tmp_path):
    (tmp_path / "file").write_text("")
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    environment = {**os.environ, "AUTOSEG_CACHE": str(tmp_path / "file" / "folder"), "TMPDIR": str(temporary)}
    text = "from autoseg import native; print(native.kernels().library is not None)"
    done = subprocess.run([sys.executable, "-c", text], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True"
    assert not list(temporary.iterdir())


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_kept_memory_is_not_asked_for_again():
    """In another process: the allocator's setting lasts."""
    text = (
        "import resource, numpy\n"
        "from autoseg import native\n"
        "assert native.keep_memory()\n"
        "def pages(size=10**7):\n"
        "    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "    numpy.ones(size)\n"
        "    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before\n"
        "first, second = pages(), pages()\n"
        "assert first > 10 * max(second, 10), (first, second)\n"
        "assert native.keep_memory(False)\n"
        "third, fourth = pages(2 * 10**7), pages(2 * 10**7)\n"
        "assert min(third, fourth) > 10 * max(second, 10), (second, third, fourth)\n"
    )
    subprocess.run([sys.executable, "-c", text], check=True)
