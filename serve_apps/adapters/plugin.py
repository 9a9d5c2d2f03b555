"""A vLLM plugin: on a CPU, LoRA is computed by `cpu_lora` in the place of vLLM's own functions.

vLLM loads every `vllm.general_plugins` entry point in each of its processes. It asks its platform
for the name of the class that computes LoRA, and loads that only for an engine that has LoRA.
"""

from __future__ import annotations

KERNELS = "serve_apps.adapters.cpu_lora.RowsByAdapter"


def use_cpu_lora() -> None:
    """Name our class to vLLM's CPU platform; other platforms keep theirs."""
    from vllm.platforms import current_platform

    if current_platform.is_cpu():
        type(current_platform).get_punica_wrapper = classmethod(lambda cls: KERNELS)
