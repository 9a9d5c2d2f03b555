"""Specs that cannot fit are refused before anything starts, with the numbers and the nearest that fits."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from cluster.errors import ConfigError
from train_jobs.base_config import BaseConfig
from train_jobs.merge import require_storable
from train_jobs.parallel import ParallelSpec, Strategy
from train_jobs.spec import BadRows, PeftSpec, QuantizationSpec, TrainSpec

Estimate = Callable[[TrainSpec], int]

_GIB = 2**30
_WAYS_NAMED = 3
_SHORTEST_NAMED = 64


@dataclass(frozen=True)
class Node:
    """What one node offers to workers: CPUs as Ray counts them, and memory in bytes."""

    cpus: float
    memory_bytes: int


@dataclass(frozen=True)
class _Way:
    """Overrides that a user can type, and the spec that they make."""

    overrides: str
    spec: TrainSpec


def check_fits(spec: TrainSpec, nodes: Sequence[Node], bytes_per_worker: Estimate) -> None:
    """Refuse a spec whose workers and standbys the nodes cannot hold all at once.

    A worker takes `threads_per_worker` CPUs and `bytes_per_worker(spec)` of memory, all on one node. An
    elastic run has to fit with `workers.min`. Raises ConfigError `train.too_few_cpus` or
    `train.too_little_memory`; its hint names overrides that do fit.
    """
    if _places(spec, nodes) < _wanted(spec):
        raise _too_few_cpus(spec, nodes, bytes_per_worker)
    if _places(spec, nodes, bytes_per_worker(spec)) < _wanted(spec):
        raise _too_little_memory(spec, nodes, bytes_per_worker)


def check_base(spec: TrainSpec, dtype: str, config: BaseConfig) -> None:
    """Refuse what the base cannot be trained to: rows longer than it knows positions for, and a version in
    a `dtype` that its files have and trained weights cannot be stored in.

    Raises ConfigError `train.context` and `train.merge_dtype`.
    """
    if config.context is not None and spec.max_length > config.context:
        raise ConfigError(
            f"`max_length` is {spec.max_length}, and `{spec.model}` is made for rows of at most "
            f"{config.context} tokens.",
            code="train.context",
            hint=f"Set `max_length={config.context}`, or train a base with a longer context.",
        )
    if spec.publish is not None and spec.publish.version is not None:
        require_storable(dtype)


def check_batch(spec: TrainSpec, dataset_size: int) -> None:
    """Refuse a step that would train a sample twice. Raises ConfigError `train.batch_too_large`."""
    if spec.global_batch_size <= dataset_size:
        return
    ways = [way for way in _smaller_batches(spec, dataset_size) if way.spec.global_batch_size <= dataset_size]
    key = "workers.max" if spec.workers else "num_workers"
    raise ConfigError(
        f"A step trains {spec.global_batch_size} samples ({key}={spec.slots} times "
        f"gradient_accumulation_steps={spec.gradient_accumulation_steps} times "
        f"per_device_train_batch_size={spec.per_device_train_batch_size}), and the training data has "
        f"{dataset_size}{' packs of them' if spec.packing else ''}.",
        code="train.batch_too_large",
        hint=_hint(ways[:1], "give more data"),
    )


def _too_few_cpus(spec: TrainSpec, nodes: Sequence[Node], bytes_per_worker: Estimate) -> ConfigError:
    places = _places(spec, nodes)
    fewer = _fewer_workers(spec, _places(spec, nodes, bytes_per_worker(spec)))
    ways = _fitting([*fewer, *_fewer_threads(spec)], nodes, bytes_per_worker)
    total = sum(node.cpus for node in nodes)
    wanted = _wanted(spec)
    needed = _counted(wanted * spec.threads_per_worker, "CPU")
    return ConfigError(
        f"{_group(spec)} of {_counted(spec.threads_per_worker, 'thread')} need {needed}; the cluster has "
        f"{_counted(total, 'CPU')} on {_counted(len(nodes), 'node')}, room for {places} of the {wanted}.",
        code="train.too_few_cpus",
        hint=_hint(ways[:2], "add nodes"),
    )


def _too_little_memory(spec: TrainSpec, nodes: Sequence[Node], bytes_per_worker: Estimate) -> ConfigError:
    need = bytes_per_worker(spec)
    places = _places(spec, nodes, need)
    kinds = (_fewer_workers(spec, places), *_lighter_workers(spec))
    ways = [way for kind in kinds for way in _fitting(kind, nodes, bytes_per_worker)[:1]]
    largest = max(node.memory_bytes for node in nodes)
    return ConfigError(
        f"{_group(spec)} need about {need / _GIB:.1f} GiB each; the nodes have room for {places} of the "
        f"{_wanted(spec)}, and the largest has {largest / _GIB:.1f} GiB.",
        code="train.too_little_memory",
        hint=_hint(ways[:_WAYS_NAMED], "add nodes with more memory"),
    )


def _fitting(ways: Iterable[_Way], nodes: Sequence[Node], bytes_per_worker: Estimate) -> list[_Way]:
    return [w for w in ways if _places(w.spec, nodes, bytes_per_worker(w.spec)) >= _wanted(w.spec)]


def _wanted(spec: TrainSpec) -> int:
    return spec.min_workers + spec.standby


def _places(spec: TrainSpec, nodes: Sequence[Node], need: int = 0) -> int:
    """How many workers the nodes hold; a worker is never split over two."""
    total = 0
    for node in nodes:
        by_cpu = int(node.cpus // spec.threads_per_worker)
        total += min(by_cpu, node.memory_bytes // need) if need > 0 else by_cpu
    return total


def _fewer_workers(spec: TrainSpec, places: int) -> Iterator[_Way]:
    if places >= spec.min_workers:
        standby = places - spec.min_workers
        yield _changed(spec, f"standby={standby}", standby=standby)
    elif places > 0:
        dropped = "standby=0 " if spec.standby else ""
        yield _with_workers(spec, places, dropped, standby=0)


def _fewer_threads(spec: TrainSpec) -> Iterator[_Way]:
    for count in range(spec.threads_per_worker - 1, 0, -1):
        yield _changed(spec, f"threads_per_worker={count}", threads_per_worker=count)


def _lighter_workers(spec: TrainSpec) -> Iterator[Iterator[_Way]]:
    """Kinds of ways to a smaller worker that keep the batch; what changes the training least comes first."""
    yield _fewer_rows(spec)
    yield _cheaper_kinds(spec)
    yield _shorter_rows(spec)


def _fewer_rows(spec: TrainSpec) -> Iterator[_Way]:
    rows, accumulation = spec.per_device_train_batch_size, spec.gradient_accumulation_steps
    for fewer in (n for n in range(rows - 1, 0, -1) if rows % n == 0):
        steps = accumulation * rows // fewer
        yield _changed(
            spec,
            f"per_device_train_batch_size={fewer} gradient_accumulation_steps={steps}",
            per_device_train_batch_size=fewer,
            gradient_accumulation_steps=steps,
        )


def _cheaper_kinds(spec: TrainSpec) -> Iterator[_Way]:
    if not spec.gradient_checkpointing:
        yield _changed(spec, "gradient_checkpointing=true", gradient_checkpointing=True)
    if spec.peft is None:
        yield _changed(spec, "peft={}", peft=PeftSpec())
    elif spec.quantization is None and not spec.is_sharded:
        bits = QuantizationSpec(load_in_4bit=True)
        yield _changed(spec, "quantization.load_in_4bit=true", quantization=bits)


def _shorter_rows(spec: TrainSpec) -> Iterator[_Way]:
    """Half the length, and so on; rows that are longer are then left out."""
    skips = spec.data.on_bad_rows is BadRows.SKIP
    data = spec.data.model_copy(update={"on_bad_rows": BadRows.SKIP})
    length = spec.max_length // 2
    while length >= _SHORTEST_NAMED:
        overrides = f"max_length={length}" + ("" if skips else " data.on_bad_rows=skip")
        yield _changed(spec, overrides, max_length=length, data=data)
        length //= 2


def _smaller_batches(spec: TrainSpec, dataset_size: int) -> Iterator[_Way]:
    """Fewer rows where that is enough, else fewer accumulated, else both at 1 and fewer workers."""
    rows = dataset_size // spec.microbatches
    if rows > 0:
        yield _changed(spec, f"per_device_train_batch_size={rows}", per_device_train_batch_size=rows)
    steps = dataset_size // (spec.slots * spec.per_device_train_batch_size)
    if steps > 0:
        yield _changed(spec, f"gradient_accumulation_steps={steps}", gradient_accumulation_steps=steps)
    least = "per_device_train_batch_size=1 gradient_accumulation_steps=1"
    ones = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 1}
    yield _changed(spec, least, **ones)
    if dataset_size > 0:
        yield _with_workers(spec, dataset_size, f"{least} ", **ones)


def _with_workers(spec: TrainSpec, count: int, before: str, **others: Any) -> _Way:
    """`count` workers; an elastic group keeps its other bound where it can."""
    if spec.workers is None:
        parallel, told = _shared_out(spec, count)
        overrides = f"{before}num_workers={count}{told}"
        return _changed(spec, overrides, num_workers=count, parallel=parallel, **others)
    least = min(count, spec.workers.min)
    bounds = spec.workers.model_copy(update={"min": least, "max": max(least, min(count, spec.workers.max))})
    overrides = f"{before}workers.min={bounds.min} workers.max={bounds.max}"
    return _changed(spec, overrides, workers=bounds, num_workers=1, **others)


def _shared_out(spec: TrainSpec, count: int) -> tuple[ParallelSpec, str]:
    """What `parallel` has to be for so many workers, and the overrides that say so."""
    size = None if spec.parallel.size is None else count
    told = "" if size is None else f" parallel.size={size}"
    strategy = Strategy.DDP if count == 1 else spec.parallel.strategy
    if strategy is not spec.parallel.strategy:
        told += f" parallel.strategy={strategy}"
    return ParallelSpec(strategy=strategy, size=size), told


def _changed(spec: TrainSpec, overrides: str, **update: Any) -> _Way:
    return _Way(overrides, spec.model_copy(update=update))


def _hint(ways: Sequence[_Way], otherwise: str) -> str:
    told = [f"set `{way.overrides}`" for way in ways] + [otherwise]
    text = ", or ".join(told)
    return f"{text[0].upper()}{text[1:]}."


def _group(spec: TrainSpec) -> str:
    workers = _counted(spec.min_workers, "worker")
    return f"{workers} and {spec.standby} on standby" if spec.standby else workers


def _counted(count: float, noun: str) -> str:
    return f"{count:g} {noun}" if count == 1 else f"{count:g} {noun}s"
