"""Entry of the `linnet` command: finds the noun, loads its commands alone, maps errors to exit codes."""

from __future__ import annotations

import sys
from typing import Any

from cluster import __version__
from cluster.cli import output
from cluster.errors import ExitCode, InterruptedRunError, LinnetError, UsageError, did_you_mean

SUMMARIES = {
    "models": "import, list, show, verify, alias and remove versions in the model store",
    "data": "prepare and inspect training data",
    "train": "run, list, show, follow and cancel fine-tuning runs",
    "serve": "see endpoints, replicas and who serves what; hand out API keys",
    "rollout": "start a candidate by hand or by a policy that judges it, promote it, roll it back",
    "doctor": "check this machine and say how to mend what is wrong",
    "up": "start a Ray cluster on this machine",
    "down": "stop what `up` started, and everything below it",
}


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit code (see ExitCode)."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    as_json = "--json" in given
    try:
        return _dispatch(given)
    except LinnetError as error:
        output.show_error(error, as_json=as_json)
        return int(error.exit_code)
    except KeyboardInterrupt:
        output.show_error(InterruptedRunError("Stopped by Ctrl-C."), as_json=as_json)
        return int(ExitCode.INTERRUPTED)
    except BrokenPipeError:
        sys.stderr.close()
        return int(ExitCode.FAILED)


def _dispatch(given: list[str]) -> int:
    if not given or given[0] in ("-h", "--help", "help"):
        sys.stdout.write(_help())
        return int(ExitCode.DONE)
    if given[0] == "--version":
        sys.stdout.write(f"linnet {__version__}\n")
        return int(ExitCode.DONE)
    noun = given[0]
    if noun not in SUMMARIES:
        raise UsageError(
            f"`{noun}` is not a command.{did_you_mean(noun, SUMMARIES)}",
            code="usage.unknown_command",
            hint="`linnet --help` lists the commands.",
        )
    from cluster import extensions

    return _run_noun(extensions.load(extensions.NOUNS, noun), noun, given[1:])


def _run_noun(app: Any, noun: str, arguments: list[str]) -> int:
    import typer
    from typer.exceptions import Abort, TyperException

    command = typer.main.get_command(app)
    try:
        result = command.main(args=arguments, prog_name=f"linnet {noun}", standalone_mode=False)
    except TyperException as error:
        raise UsageError(
            error.format_message(), code="usage.arguments", hint=f"`linnet {noun} --help` shows the usage."
        ) from None
    except Abort:
        raise KeyboardInterrupt from None
    if result == ExitCode.INTERRUPTED:
        raise KeyboardInterrupt
    return int(result) if isinstance(result, int) else int(ExitCode.DONE)


def _help() -> str:
    width = max(map(len, SUMMARIES))
    rows = "\n".join(f"  {name:<{width}}  {text}" for name, text in SUMMARIES.items())
    return (
        "linnet: fine-tunes, serves and rolls out language models on Ray, and keeps them up.\n\n"
        f"usage: linnet <noun> <verb> [arguments] [--json]\n\n{rows}\n\n"
        "A bare noun lists. `linnet <noun> --help` shows its verbs. First steps: `linnet doctor`.\n"
    )


if __name__ == "__main__":
    sys.exit(main())
