"""What processes hold of the memory of NVIDIA devices, as the driver says it (NVML)."""

from __future__ import annotations

import functools
from collections.abc import Collection
from typing import Any


def held_bytes(pids: Collection[int]) -> int | None:
    """None where nobody knows: no NVIDIA driver, or one that shows no memory of these processes.

    In a container without the host's process ids, and on a slice of a device (MIG), it shows none.
    """
    nvml = _nvml()
    if nvml is None:
        return None
    try:
        handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
        processes = [one for handle in handles for one in nvml.nvmlDeviceGetComputeRunningProcesses(handle)]
    except nvml.NVMLError:
        return None
    held = [one.usedGpuMemory for one in processes if one.pid in pids and one.usedGpuMemory is not None]
    return sum(held) if held else None


@functools.cache
def _nvml() -> Any:
    """vLLM's own binding, ready to be asked; None without a driver."""
    from vllm.third_party import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    return pynvml
