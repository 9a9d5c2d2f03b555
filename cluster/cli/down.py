"""`linnet down`: stop what `up` started, and everything below it."""

from __future__ import annotations

from cluster.cli import output
from cluster.cli.output import JsonFlag
from cluster.config import Settings

app = output.new_app("Stop the cluster that `up` started.", list_verb=None)


@app.command()
def down(as_json: JsonFlag = False) -> None:
    """Stop Ray, its engines and its proxies, and remove its temporary directory."""
    from cluster import runtime

    output.progress("Stopping Ray and everything below it")
    killed = runtime.down(Settings.load())
    output.emit_mutation(
        target="cluster",
        applied=True,
        dry_run=False,
        detail={"killed": killed},
        as_json=as_json,
        sentence="Stopped." if not killed else f"Stopped; {len(killed)} left-over processes were killed.",
    )
