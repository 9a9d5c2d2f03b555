"""`linnet rollout`: the verbs, in the order in which `--help` lists them."""

from __future__ import annotations

import typer

from cluster.cli import output
from cluster.cli.output import JsonFlag, RootOption
from serve_apps.rollout.verbs import ahead, by_hand, judged, seen

_HELP = """Start a candidate, let it be judged step by step or move its weight, promote it, roll it back.

By hand: `start --weight` gives a candidate a share, `set-weight` moves it up or down, `promote` makes it
@stable and keeps the old stable as @previous. `rollback` takes an active candidate back to 0%, or,
with none active, undoes the last promotion at once. After a rollback, `start` the version again
(or another one) and `promote` it: there is no way to 100% without a start.

By a policy: `plan` says how long it will take, `start --policy` begins it, `status --watch` and `wait`
follow it; it promotes the candidate or takes it back by itself.
"""

app = output.new_app(_HELP)


@app.callback(invoke_without_command=True, help=_HELP)
def rollouts_by_default(context: typer.Context, as_json: JsonFlag = False, root: RootOption = None) -> None:
    """List rollouts without a verb."""
    if context.invoked_subcommand is None:
        seen.list_rollouts(as_json=as_json, root=root)


app.command("list")(seen.list_rollouts)
app.command("plan")(ahead.plan)
app.command("start")(by_hand.start)
app.command("status")(seen.status)
app.command("wait")(ahead.wait)
app.command("set-weight")(by_hand.set_weight)
app.command("approve")(judged.approve)
app.command("pause")(judged.pause)
app.command("resume")(judged.resume)
app.command("promote")(by_hand.promote)
app.command("abort")(judged.abort)
app.command("rollback")(by_hand.rollback)
app.command("retry")(judged.retry)
app.command("history")(seen.history)
app.command("explain")(seen.explain)
app.command("replay")(ahead.replay)
app.command("plot")(ahead.plot)
