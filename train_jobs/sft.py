"""Supervised fine-tuning: `python train_jobs/sft.py FILE [key.sub=value …]`, also under `ray job submit`."""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    # As a script Python would look for modules in this directory first, not in the checkout.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from cluster.cli import output
from cluster.config import Settings
from cluster.errors import ExitCode, InterruptedRunError, LinnetError, UsageError
from train_jobs.driver import RunResult, train
from train_jobs.ending import Why
from train_jobs.spec_files import load_spec

_USAGE = "python train_jobs/{sft,dpo}.py FILE [key.sub=value ...] [--json]"


def run(file: str, overrides: list[str], settings: Settings) -> RunResult:
    """Train what `file` says. Raises the LinnetError that says why it could not."""
    return train(load_spec(file, overrides, settings), settings)


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    given = list(sys.argv[1:] if argv is None else argv)
    as_json = "--json" in given
    try:
        arguments = [argument for argument in given if argument != "--json"]
        if not arguments or arguments[0].startswith("-"):
            raise UsageError(f"usage: {_USAGE}", code="usage.arguments")
        show(run(arguments[0], arguments[1:], Settings.load()), as_json=as_json)
    except LinnetError as error:
        output.show_error(error, as_json=as_json)
        return int(error.exit_code)
    except KeyboardInterrupt:
        output.show_error(InterruptedRunError("Stopped by Ctrl-C."), as_json=as_json)
        return int(ExitCode.INTERRUPTED)
    return int(ExitCode.DONE)


def show(result: RunResult, *, as_json: bool) -> None:
    """The result of a run as the mutation contract, or as a sentence and the next command."""
    did = _did(result)
    published = f", published as {', '.join(result.published)}" if result.published else ""
    newest = result.published[-1] if result.published else ""
    following = f"linnet rollout start {newest} --weight 10" if newest else f"linnet train show {result.run}"
    output.emit_mutation(
        target=f"run/{result.run}",
        applied=result.trained,
        dry_run=False,
        detail=result.model_dump(),
        as_json=as_json,
        sentence=f"The run {result.run} {did}{published}. Its directory: {result.directory}",
        next_command=following,
    )


def _did(result: RunResult) -> str:
    if not result.trained:
        return "was finished before; nothing was done"
    early = ", since it got no better" if result.why is Why.EARLY_STOPPING else ""
    return f"finished after {result.step} steps{early}"


if __name__ == "__main__":
    sys.exit(main())
