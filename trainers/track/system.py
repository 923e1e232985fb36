"""Measure the memory that a run uses, and how busy GPUs are."""

from __future__ import annotations

import functools
import os
import resource
import sys
from pathlib import Path
from typing import Any

import jax


def system_metrics() -> dict[str, float]:
    """Return memory in GiB: this process's resident set now, and the peak of all local accelerators (0 if unknown).

    With nvidia-ml-py also what NVIDIA's GPUs of this process do now: `system/gpu_utilization`, the mean share of the time in
    which they compute, and `system/gpu_memory_used` GiB, by all processes.
    """
    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    metrics = {
        "system/cpu_memory": _resident_bytes() / 2**30,
        "system/gpu_memory": sum(stat.get("peak_bytes_in_use", 0) for stat in stats) / 2**30,
    }
    return metrics | _gpu_metrics()


def _gpu_metrics() -> dict[str, float]:
    handles = _gpus()
    if not handles:
        return {}
    import pynvml

    try:
        shares = [pynvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100 for handle in handles]
        used = sum(pynvml.nvmlDeviceGetMemoryInfo(handle).used for handle in handles)
    except pynvml.NVMLError:  # the driver does not tell, for example of a part of a GPU
        return {}
    return {"system/gpu_utilization": sum(shares) / len(shares), "system/gpu_memory_used": used / 2**30}


@functools.cache
def _gpus() -> list[Any]:
    """Return NVML's handles of the GPUs that this process uses, none without NVIDIA's or without nvidia-ml-py."""
    devices = [device for device in jax.local_devices() if device.platform == "gpu"]
    try:
        import pynvml
    except ModuleNotFoundError:
        return []
    try:
        if devices:
            pynvml.nvmlInit()
        return [_handle(pynvml, device.local_hardware_id) for device in devices]
    except pynvml.NVMLError:
        return []


def _handle(pynvml: Any, index: int) -> Any:
    """Return the handle of a visible GPU by its index. CUDA_VISIBLE_DEVICES names GPUs by numbers or UUIDs."""
    visible = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    name = visible[index] if index < len(visible) else str(index)
    return pynvml.nvmlDeviceGetHandleByIndex(int(name)) if name.isdigit() else pynvml.nvmlDeviceGetHandleByUUID(name)


def _resident_bytes() -> int:
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    except OSError:  # no /proc: return the peak, which is in bytes on macOS and in kilobytes elsewhere
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
