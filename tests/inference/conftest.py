"""Tests of inference: quiet."""

import pytest


@pytest.fixture(autouse=True)
def quiet(one_thread: None) -> None:
    """All tests here compute on one thread."""
