"""Being told to end: what was begun is put away, and a program that goes on afterwards is not ended behind its back."""

import signal
import subprocess
import sys
import time

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
