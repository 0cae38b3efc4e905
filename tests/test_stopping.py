"""Being told to end: what was begun is put away, and a program that goes on afterwards is not ended behind its back."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from autoseg import stopping

STUCK = """
import threading, time
from autoseg import stopping
stopping.GRACE_S = 0.2
with stopping.stoppable("told to end"):
    threading.Thread(target=time.sleep, args=(60,)).start()
    import signal
    signal.raise_signal(signal.SIGTERM)
"""


IN_A_TEXT = """
import signal, sys
from autoseg import stopping
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's job in the background begins with it ignored
def main():
    try:
        with stopping.stoppable("told to end"):
            exec("import signal; signal.raise_signal(signal.SIGINT)")
    except stopping.Stopped as stopped:
        return stopped.exit_code
sys.exit(main())
"""


def test_a_caller_that_goes_on_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stopping, "GRACE_S", 0.05)
    with pytest.raises(stopping.Stopped) as stopped, stopping.stoppable("told to end"):
        signal.raise_signal(signal.SIGTERM)
    assert stopped.value.exit_code == 143
    time.sleep(0.2)  # whoever reads this has not been ended


def test_threads_keep_no_process_that_was_told_to_end() -> None:
    ended = subprocess.run([sys.executable, "-c", STUCK], capture_output=True, text=True, timeout=30)
    assert ended.returncode == 143
    assert ended.stderr.endswith("told to end\n")


def test_ctrl_c_within_code_given_as_text_ends_with_its_exit_code(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(IN_A_TEXT)
    environment = {**os.environ, "PYTHONPATH": str(Path(stopping.__file__).parents[1])}
    ended = subprocess.run([sys.executable, "-m", "program"], cwd=tmp_path, env=environment, timeout=30)
    assert ended.returncode == 130


@pytest.mark.parametrize("handler", [signal.SIG_IGN, lambda *_: None])
def test_ctrl_c_stays_with_a_caller_who_handles_it(handler: Any) -> None:
    before = signal.signal(signal.SIGINT, handler)
    try:
        with stopping.stoppable("told to end"):
            signal.raise_signal(signal.SIGINT)
            assert signal.getsignal(signal.SIGINT) is handler
    finally:
        signal.signal(signal.SIGINT, before)
