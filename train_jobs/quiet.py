"""Keeping the libraries' progress bars out of our progress lines."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partialmethod


@contextmanager
def no_progress_bars() -> Iterator[None]:
    """No bars from transformers for as long as this takes, nor from the tqdm that it calls directly."""
    import tqdm
    from transformers.utils import logging

    shown, plain = logging.is_progress_bar_enabled(), tqdm.tqdm.__init__
    logging.disable_progress_bar()
    tqdm.tqdm.__init__ = partialmethod(plain, disable=True)
    try:
        yield
    finally:
        tqdm.tqdm.__init__ = plain
        if shown:
            logging.enable_progress_bar()
