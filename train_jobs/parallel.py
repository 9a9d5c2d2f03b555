"""How workers share a model, and what a model that is cut in parts does not go with."""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from cluster.config import StrictModel

if TYPE_CHECKING:
    from train_jobs.spec import TrainSpec


class Strategy(StrEnum):
    """What each worker holds: all of the model, or a part of every layer."""

    DDP = "ddp"
    FSDP = "fsdp"


class ParallelSpec(StrictModel):
    """How workers share the model; `size` is how many, by default all of them."""

    strategy: Strategy = Strategy.DDP
    size: Annotated[int, Field(gt=0)] | None = None


def parallel_misfit(spec: TrainSpec) -> str | None:
    """Why `spec.parallel` does not go with the rest of a spec, and the nearest that does."""
    size = spec.parallel.size
    if size not in (None, spec.slots):
        return (
            f"`parallel.size` is {size}, and there are {spec.slots} workers: leave it out, or set "
            f"`parallel.size={spec.slots}`"
        )
    if spec.parallel.strategy is Strategy.DDP:
        return None
    why = next(_unshardable(spec), None)
    return why and f"with `parallel.strategy: fsdp` {why}, or set `parallel.strategy=ddp`"


def _unshardable(spec: TrainSpec) -> Iterator[str]:
    if spec.workers is not None:
        yield f"no worker can be spared: give `num_workers={spec.workers.max}` and no `workers`"
    elif spec.num_workers == 1:
        yield "there have to be workers to share with: set `num_workers=2` or more"
    if spec.fault_tolerance == "continue":
        yield "a lost worker takes its part along: set `fault_tolerance=restart`"
    if spec.quantization is not None:
        yield "the base is in float32: set `quantization=null`"
    if spec.optim == "adamw_bnb_8bit":
        yield "an optimizer's state is cut by rows, which blocks of 8 bits span: set `optim=adamw_torch`"
    if spec.method == "dpo" and spec.peft is None:
        yield "nobody has the whole copy that DPO compares with: train an adapter, `peft={}`"
