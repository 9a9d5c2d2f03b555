"""Entry of `make demo`."""

from __future__ import annotations

import sys

from cluster.cli import output
from cluster.config import Settings
from cluster.demo import story
from cluster.demo.commands import Commands
from cluster.demo.state import Demo
from cluster.demo.teller import Teller
from cluster.errors import LinnetError


def main() -> int:
    """Run the demo; returns 0, or the exit code of the error that stopped it."""
    try:
        teller = Teller()
        demo = Demo(Settings.load(), teller, Commands(teller))
        story.run(demo)
        return story.conclude(demo)
    except LinnetError as error:
        output.show_error(error, as_json=False)
        return int(error.exit_code)


if __name__ == "__main__":
    sys.exit(main())
