"""What a step minimises: cross entropy on answers (SFT), or how much the better answer leads (DPO)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch.nn import functional

from cluster.errors import ConfigError
from train_jobs.data.rendering import IGNORED
from train_jobs.dataset import PackedDataset, PairDataset, Samples
from train_jobs.model import Batch, collate, summed_loss, takes_positions
from train_jobs.spec import DpoSpec, TrainSpec


class Objective(Protocol):
    """A loss over samples of one dataset, which are given by their indices."""

    def weight(self, samples: Sequence[int]) -> int:
        """What the summed loss and metrics of these samples are divided by."""
        ...

    def tokens(self, samples: Sequence[int]) -> int:
        """All the tokens that are read, prompts included."""
        ...

    def loss(self, model: Any, samples: Sequence[int]) -> tuple[torch.Tensor, dict[str, float]]:
        """The loss summed over the samples, a float32 scalar, and sums of further metrics.

        Draws from torch's global generator, and only what the model itself draws in its present mode.
        """
        ...


@dataclass(frozen=True)
class SftObjective:
    """Cross entropy on answer tokens; the weight is their number."""

    dataset: PackedDataset
    pad_id: int

    def weight(self, samples: Sequence[int]) -> int:
        """Answer tokens."""
        return self.dataset.answer_tokens(samples)

    def tokens(self, samples: Sequence[int]) -> int:
        """All tokens."""
        return self.dataset.lengths(samples)

    def loss(self, model: Any, samples: Sequence[int]) -> tuple[torch.Tensor, dict[str, float]]:
        """The summed cross entropy; no further metrics."""
        return summed_loss(model, collate(self.dataset, samples, self.pad_id)), {}


@dataclass(frozen=True)
class DpoObjective:
    """Direct preference optimization (arXiv 2305.18290); the weight is the number of pairs.

    Answers are compared with how likely `reference` finds them: a frozen model, or None for the
    trained PEFT model without its adapters. `label_smoothing` is the share of pairs taken to be the
    wrong way round.
    """

    dataset: PairDataset
    pad_id: int
    spec: DpoSpec
    reference: Any | None = None

    def weight(self, samples: Sequence[int]) -> int:
        """Pairs."""
        return len(samples)

    def tokens(self, samples: Sequence[int]) -> int:
        """All tokens of both sides."""
        return self.dataset.lengths(samples)

    def loss(self, model: Any, samples: Sequence[int]) -> tuple[torch.Tensor, dict[str, float]]:
        """The summed sigmoid loss; the metrics are TRL's `rewards/…`."""
        batch = self._batch(samples)
        with self._reference(model) as reference, _undisturbed(reference):
            expected = answer_log_probs(reference, batch)
        rewards = self.spec.beta * (answer_log_probs(model, batch) - expected)
        chosen, rejected = rewards.chunk(2)
        margins, doubt = chosen - rejected, self.spec.label_smoothing
        losses = -(1 - doubt) * functional.logsigmoid(margins) - doubt * functional.logsigmoid(-margins)
        return losses.sum(), _metrics(chosen.detach(), rejected.detach())

    def _batch(self, samples: Sequence[int]) -> Batch:
        """The chosen sides and below them the rejected ones, of shape (2 * samples, longest)."""
        sides = [collate(side, samples, self.pad_id) for side in (self.dataset.chosen, self.dataset.rejected)]
        longest = max(side.input_ids.shape[1] for side in sides)

        def joined(name: str, filler: int) -> torch.Tensor:
            parts = [getattr(side, name) for side in sides]
            return torch.cat(
                [functional.pad(part, (0, longest - part.shape[1]), value=filler) for part in parts]
            )

        return Batch(joined("input_ids", self.pad_id), joined("attention_mask", 0), joined("labels", IGNORED))

    @contextmanager
    def _reference(self, model: Any) -> Iterator[Any]:
        with model.disable_adapter() if self.reference is None else nullcontext():
            yield model if self.reference is None else self.reference


def make_objective(
    spec: TrainSpec, dataset: Samples, model: Any, reference: Any | None = None
) -> SftObjective | DpoObjective:
    """The objective for what `load_dataset` gave; `reference` is what full DPO compares with.

    Raises ConfigError when DPO has neither adapters to take off nor a reference.
    """
    pad_id = _pad_id(model)
    if isinstance(dataset, PackedDataset):
        return SftObjective(dataset, pad_id)
    if reference is None and not hasattr(model, "disable_adapter"):
        raise ConfigError(
            "DPO of a model without adapters needs a frozen copy of the model to compare with.",
            code="train.no_reference",
            hint="Set `peft` in the spec, or give the reference model.",
        )
    return DpoObjective(dataset, pad_id, spec.dpo, reference)


def answer_log_probs(model: Any, batch: Batch) -> torch.Tensor:
    """Log-probability of each row's answer tokens, summed: float32 of shape (rows,)."""
    batch = batch.to(model.device)
    targets = functional.pad(batch.labels[:, 1:], (0, 1), value=IGNORED)
    wanted = {}
    if takes_positions(model):
        positions = (targets != IGNORED).any(dim=0).nonzero().flatten()
        wanted["logits_to_keep"], targets = positions, targets[:, positions]
    logits = model(**batch.inputs, **wanted).logits
    losses = functional.cross_entropy(
        logits.flatten(0, 1).float(), targets.flatten(), ignore_index=IGNORED, reduction="none"
    )
    return -losses.view(targets.shape).sum(dim=1)


@contextmanager
def _undisturbed(model: Any) -> Iterator[None]:
    """No gradients, no dropout; afterwards every module is in its former mode and no draw is missing."""
    modes = {module: module.training for module in model.modules()}
    cuda = [model.device] if model.device.type == "cuda" else []
    model.eval()
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=cuda):
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def _metrics(chosen: torch.Tensor, rejected: torch.Tensor) -> dict[str, float]:
    sums = {
        "rewards/chosen": chosen.sum(),
        "rewards/rejected": rejected.sum(),
        "rewards/accuracies": (chosen > rejected).sum(),
        "rewards/margins": (chosen - rejected).sum(),
    }
    return dict(zip(sums, torch.stack([value.double() for value in sums.values()]).tolist(), strict=True))


def _pad_id(model: Any) -> int:
    """What fills up a row; it is masked, so any id that the vocabulary has will do."""
    configured = model.config.pad_token_id
    return configured if isinstance(configured, int) and configured >= 0 else 0
