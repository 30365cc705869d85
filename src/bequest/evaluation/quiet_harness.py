"""lm-eval without its bars and messages."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Iterator


@contextlib.contextmanager
def quiet_harness(silent: bool) -> Iterator[None]:
    """Keep lm-eval's bars and messages away: it has no switch for them.

    Args:
        silent: of what it writes to the error stream, keep all away, not the messages alone.
    """
    from transformers.utils import logging as transformers_logging

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    transformers_logging.disable_progress_bar()
    with contextlib.redirect_stderr(io.StringIO()) if silent else contextlib.nullcontext():
        yield
