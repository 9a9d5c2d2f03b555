"""Whether an adapter may be put on a base: by their manifests, before anything is loaded."""

from __future__ import annotations

from cluster.errors import GateFailedError
from cluster.manifest import VersionKind, VersionManifest

_LORA = "LORA"


def require_fit(adapter: VersionManifest, base: VersionManifest, *, has_lora: bool) -> None:
    """Raise GateFailedError with the first reason against it; `has_lora` is what the engine has."""
    if not has_lora:
        raise GateFailedError(
            f"The engine of `{base.ref}` was started without LoRA, so it cannot serve `{adapter.ref}`.",
            code="adapters.no_lora",
            hint="Set engine_kwargs: {enable_lora: true} in the base's args; Serve starts its replicas anew.",
        )
    if adapter.kind is not VersionKind.ADAPTER or adapter.architecture != _LORA:
        raise GateFailedError(
            f"`{adapter.ref}` is no LoRA adapter: its kind is {adapter.kind} ({adapter.architecture}).",
            code="adapters.kind",
            hint="Serve a whole version by an application of its own.",
        )
    if adapter.parent != base.ref:
        raise GateFailedError(
            f"`{adapter.ref}` was trained on `{adapter.parent}`, and `{base.ref}` is served here.",
            code="adapters.other_base",
            hint=f"Name it in the user_config of {adapter.parent}.",
        )
    if _prompting(adapter) != _prompting(base):
        raise GateFailedError(
            f"`{adapter.ref}` has another tokenizer or chat template than `{base.ref}`.",
            code="adapters.other_prompting",
            hint="An engine has one of each: publish the adapter without a tokenizer, or serve it merged.",
        )


def _prompting(manifest: VersionManifest) -> tuple[str, str | None]:
    return manifest.tokenizer_sha256, manifest.chat_template_sha256
