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
from train_jobs.layout import Layout
from train_jobs.tensor_file import TensorFile
from train_jobs.weights import config_file, require_fit, stored_weights, weights_file

_OPTIMIZER, _SCALARS = "optimizer.safetensors", "optimizer.json"
_RNG, _POSITION = "rng_state.pt", "trainer_state.json"
_BUFFERS = 2


class Position(StrictModel):
    """How far a run is. The next sample follows from these alone.

    `base_sha256` identifies the files of the base version, `data_fingerprint` the samples, `spec_sha256` the
    keys of the spec that decide what is computed.
    """

    step: int
    samples_seen: int
    seed: int
    learning_rate: float
    data_fingerprint: str
    base_sha256: str
    spec_sha256: str


class Kept:
    """A worker's own weights and optimizer state, in host memory while others are in their place."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._copies = [
            {name: tensor.detach().to("cpu", copy=True) for name, tensor in live.items()}
            for live in (layout.weights(), layout.state())
        ]

    def put_back(self) -> None:
        """Go on with them."""
        weights, state = self._copies
        self._layout.take(weights, state)


class Snapshots:
    """Copies of a model's trained weights and of its optimizer, into host memory that is used again.

    They are whole, however the workers hold the model. Two can be out at a time: one being written while
    the next is taken. Memory is taken up by `prepare` or, which takes longer than the copy itself, by the
    first `take`.
    """

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._free: list[tuple[TensorFile, TensorFile]] = []
        self._made = 0
        self._changed = threading.Condition()

    def prepare(self) -> None:
        """Have memory for one snapshot ready; worth calling on the rank that saves."""
        with self._changed:
            if not self._made:
                self._make_room()

    def take(self) -> Snapshot:
        """Copy now; the only part that holds up training. The other workers hand over what they have.

        Waits while two earlier snapshots are still out: release each when its files are written. Raises
        GroupLostError where other workers have a part, and then no memory is held.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._free or self._made < _BUFFERS)
            if not self._free:
                self._make_room()
            room = self._free.pop()
        try:
            self._layout.copy_into(*room)
        except BaseException:
            self.give_back(room)
            raise
        model, optimizer = self._layout.model, self._layout.optimizer
        name, config = config_file(model)
        numbers = json.dumps(optimizers.scalars(optimizer)).encode()
        return Snapshot(self, room, weights_file(model), {name: config, _SCALARS: numbers})

    def _make_room(self) -> None:
        self._free.append((TensorFile(self._layout.weights()), TensorFile(self._layout.state())))
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
    layout: Layout,
    *,
    data_fingerprint: str,
    base_sha256: str,
) -> Position:
    """Let a worker take a checkpoint's state; nothing else is touched.

    Raises ConflictError, before anything changes, when the data (`train.data_changed`) or the base
    (`train.base_changed`) are no longer those that the run began with, and when the weights or the
    optimizer's state are those of another model (`train.adapter_mismatch`, `train.optimizer_mismatch`).
    """
    position = Position.model_validate_json(files[_POSITION])
    _require_same(position, data_fingerprint, base_sha256)
    trained = stored_weights(files, layout.model)
    require_fit(trained, layout.weights(), code="train.adapter_mismatch", what="adapter or model")
    stored_state = load_tensors(files[_OPTIMIZER])
    require_fit(stored_state, layout.state(), code="train.optimizer_mismatch", what="optimizer state")
    layout.take(trained, stored_state)
    optimizers.set_scalars(layout.optimizer, json.loads(files[_SCALARS]))
    return position


def restore_rng(files: Mapping[str, bytes], rank: int) -> None:
    """Take up the random state that `rank` had; one that is new keeps its own."""
    states = torch.load(io.BytesIO(files[_RNG]), weights_only=True)
    if rank < len(states):
        set_rng(states[rank])


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
