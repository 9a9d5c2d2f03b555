"""What a checkpoint holds: trained weights, optimizer, data position, random states."""

from __future__ import annotations

import io
import json
import random
import threading
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch
from safetensors.torch import load as load_tensors

from cluster.config import StrictModel
from cluster.errors import ConflictError
from train_jobs import optimizers
from train_jobs.tensor_file import TensorFile
from train_jobs.weights import config_file, live_weights, require_fit, stored_weights, weights_file

_OPTIMIZER, _SCALARS = "optimizer.safetensors", "optimizer.json"
_RNG, _POSITION = "rng_state.pt", "trainer_state.json"
_BUFFERS = 2


class Position(StrictModel):
    """How far a run is. The next sample follows from these alone.

    `base_sha256` identifies the files of the base version, `data_fingerprint` the samples.
    """

    step: int
    samples_seen: int
    seed: int
    learning_rate: float
    data_fingerprint: str
    base_sha256: str
    spec_sha256: str


class Snapshots:
    """Copies of a model's trained weights and of its optimizer, into host memory that is used again.

    Two can be out at a time: one being written while the next is taken. Memory is taken up by
    `prepare` or, which takes longer than the copy itself, by the first `take`.
    """

    def __init__(self, model: Any, optimizer: torch.optim.Optimizer) -> None:
        self._model, self._optimizer = model, optimizer
        self._free: list[tuple[TensorFile, TensorFile]] = []
        self._made = 0
        self._changed = threading.Condition()

    def prepare(self) -> None:
        """Have memory for one snapshot ready; worth calling on the rank that saves."""
        with self._changed:
            if not self._made:
                self._make_room()

    def take(self) -> Snapshot:
        """Copy now; the only part that holds up training.

        Waits while two earlier snapshots are still out: release each when its files are written.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._free or self._made < _BUFFERS)
            if not self._free:
                self._make_room()
            room = self._free.pop()
        weights, state = room
        weights.fill(live_weights(self._model))
        state.fill(optimizers.state_tensors(self._optimizer))
        name, config = config_file(self._model)
        numbers = json.dumps(optimizers.scalars(self._optimizer)).encode()
        return Snapshot(self, room, weights_file(self._model), {name: config, _SCALARS: numbers})

    def _make_room(self) -> None:
        state = optimizers.state_tensors(self._optimizer)
        self._free.append((TensorFile(live_weights(self._model)), TensorFile(state)))
        self._made += 1

    def give_back(self, room: tuple[TensorFile, TensorFile]) -> None:
        """Let a later snapshot use the memory of one that is no longer needed."""
        with self._changed:
            self._free.append(room)
            self._changed.notify()


class Snapshot:
    """The state at one moment. As a context manager it releases its memory at the end."""

    def __init__(
        self,
        owner: Snapshots,
        room: tuple[TensorFile, TensorFile],
        weights_name: str,
        small: dict[str, bytes],
    ) -> None:
        self._owner = owner
        self._room: tuple[TensorFile, TensorFile] | None = room
        self._weights_name, self._small = weights_name, small

    def files(self) -> dict[str, bytes | memoryview]:
        """Weights, configuration and optimizer as files, valid until the release; nothing is copied."""
        if self._room is None:
            raise ValueError("the snapshot was released")
        weights, state = self._room
        return {self._weights_name: weights.data, _OPTIMIZER: state.data, **self._small}

    def release(self) -> None:
        """Give the memory back; views of its files show later states from now on."""
        room, self._room = self._room, None
        if room is not None:
            self._owner.give_back(room)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def encode(snapshot: Snapshot, position: Position, rng: list[Any]) -> dict[str, bytes | memoryview]:
    """The files of a checkpoint, valid until the snapshot is released; `rng` has one entry a rank."""
    buffer = io.BytesIO()
    torch.save(rng, buffer)
    return {
        **snapshot.files(),
        _RNG: buffer.getvalue(),
        _POSITION: (position.model_dump_json(indent=2) + "\n").encode(),
    }


def restore(
    files: Mapping[str, bytes],
    model: Any,
    optimizer: torch.optim.Optimizer,
    *,
    data_fingerprint: str,
    base_sha256: str,
) -> Position:
    """Put a checkpoint's state into a model and an optimizer, in place; nothing else is touched.

    Raises ConflictError, before anything changes, when the data (`train.data_changed`) or the base
    (`train.base_changed`) are no longer those that the run began with, and when the weights or the
    optimizer's state are those of another model (`train.adapter_mismatch`, `train.optimizer_mismatch`).
    """
    position = Position.model_validate_json(files[_POSITION])
    _require_same(position, data_fingerprint, base_sha256)
    weights, state = live_weights(model), optimizers.state_tensors(optimizer)
    trained = stored_weights(files, model)
    require_fit(trained, weights, code="train.adapter_mismatch", what="adapter or model")
    stored_state = load_tensors(files[_OPTIMIZER])
    require_fit(stored_state, state, code="train.optimizer_mismatch", what="optimizer state")
    with torch.no_grad():
        for live, stored in ((weights, trained), (state, stored_state)):
            for name, tensor in live.items():
                tensor.copy_(stored[name])
    optimizers.set_scalars(optimizer, json.loads(files[_SCALARS]))
    return position


def restore_rng(files: Mapping[str, bytes], rank: int) -> None:
    """Take up the random state that `rank` had; one that is new keeps its own."""
    states = torch.load(io.BytesIO(files[_RNG]), weights_only=True)
    if rank < len(states):
        set_rng(states[rank])


def tensors(model: Any, optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    """All tensors of the trained weights and of the optimizer's state, live and in one order.

    Copied one by one into a peer's list, with `optimizers.scalars` beside them, they make the peer
    go on with exactly the same losses.
    """
    return [*live_weights(model).values(), *optimizers.state_tensors(optimizer).values()]


def rng() -> dict[str, Any]:
    """The random state of this process: torch's, Python's and numpy's."""
    name, keys, place, has_gauss, gauss = np.random.get_state(legacy=True)
    return {
        "torch": torch.get_rng_state(),
        "python": random.getstate(),
        "numpy": (name, torch.from_numpy(np.asarray(keys).astype(np.int64)), place, has_gauss, gauss),
    }


def set_rng(state: Mapping[str, Any]) -> None:
    """Take up a random state that `rng` gave."""
    torch.set_rng_state(state["torch"])
    random.setstate(state["python"])
    name, keys, place, has_gauss, gauss = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), place, has_gauss, gauss))


def _require_same(position: Position, data_fingerprint: str, base_sha256: str) -> None:
    if position.data_fingerprint != data_fingerprint:
        raise ConflictError(
            f"The training data changed since step {position.step}: sha256 {data_fingerprint[:12]}…, "
            f"the checkpoint has {position.data_fingerprint[:12]}….",
            code="train.data_changed",
            hint="Bring the former file back, or train the new data under another `run` name.",
        )
    if position.base_sha256 != base_sha256:
        raise ConflictError(
            f"The base model changed since step {position.step}: sha256 {base_sha256[:12]}…, "
            f"the checkpoint has {position.base_sha256[:12]}….",
            code="train.base_changed",
            hint="Restore the version (`linnet models verify`), or train under another `run` name.",
        )
