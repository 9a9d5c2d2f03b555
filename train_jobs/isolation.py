"""Whether a model keeps the samples of a pack apart, tried on the model itself."""

from __future__ import annotations

from typing import Any

import torch

from cluster.errors import ConfigError

# A pack and its last sample alone are computed in other shapes, which rounds differently.
_TOLERANCE = 1e-3
_TOLERANCE_8BIT = 5e-2


def require_isolation(model: Any) -> None:
    """Try a pack of two samples: the second must come out as it does alone.

    Raises ConfigError `train.packing_unsupported`, naming the class, where positions that begin again do
    not keep the samples of a row apart.
    """
    name = type(model).__name__
    vocabulary = int(model.get_input_embeddings().weight.shape[0])
    tokens = torch.arange(1, 17, device=model.device).remainder(vocabulary).view(1, 16)
    place = torch.arange(8, device=model.device).view(1, 8)
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            packed = model(input_ids=tokens, position_ids=place.repeat(1, 2)).logits[0, 8:].float()
            alone = model(input_ids=tokens[:, 8:], position_ids=place).logits[0].float()
    except TypeError as error:
        raise _unsupported(name, str(error)) from None
    finally:
        model.train(was_training)
    allowed = _TOLERANCE_8BIT if getattr(model, "is_loaded_in_8bit", False) else _TOLERANCE
    if not torch.allclose(packed, alone, rtol=0.0, atol=allowed * float(alone.abs().max())):
        raise _unsupported(name, "its tokens see those of the sample before")


def _unsupported(name: str, why: str) -> ConfigError:
    return ConfigError(
        f"`packing: true`, and the model class {name} does not keep the samples of a pack apart: {why}.",
        code="train.packing_unsupported",
        hint="Set `packing=false` for this model.",
    )
