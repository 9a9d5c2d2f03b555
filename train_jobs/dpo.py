"""Preference training: `python train_jobs/dpo.py FILE [key.sub=value …]`, also under `ray job submit`."""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    # As a script Python would look for modules in this directory first, not in the checkout.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from train_jobs import sft
from train_jobs.spec import Method


def main(argv: list[str] | None = None) -> int:
    """The command line of `sft.py` with `method: dpo`, whatever the file says; returns the exit code."""
    given = list(sys.argv[1:] if argv is None else argv)
    return sft.main([*given, f"method={Method.DPO}"] if given else [])


if __name__ == "__main__":
    sys.exit(main())
