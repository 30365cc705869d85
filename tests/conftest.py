"""What all tests share: no hub, and the real model and text that `make assets` brings."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from hypothesis import settings

from assets.bring import ROOT, stamp_of

os.environ.setdefault("HF_HUB_OFFLINE", "1")

# A shell starts background jobs with interrupts ignored, and children inherit that: tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

# No test is timed: the machine may be busy. CI draws the same examples every time.
settings.register_profile("bequest", deadline=None, derandomize=bool(os.environ.get("CI")))
settings.load_profile("bequest")


def _asset(name: str) -> Path:
    folder = ROOT / name
    if not stamp_of(folder).exists():
        # `make test` brings the assets; a bare pytest may go without them, CI may not.
        reason = f"{folder} is not there; run `make assets`"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    return folder


@pytest.fixture(scope="session")
def smollm2_folder() -> Path:
    """The folder of SmolLM2-135M-Instruct in float32."""
    return _asset("SmolLM2-135M-Instruct")


@pytest.fixture(scope="session")
def brown_folder() -> Path:
    """The folder of the Brown corpus: train.jsonl and held_out.jsonl."""
    return _asset("brown")
