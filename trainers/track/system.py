"""Measure the memory that a run uses."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

import jax


def system_metrics() -> dict[str, float]:
    """Return memory in GiB: this process's resident set now, and the peak of all local accelerators (0 if unknown)."""
    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    return {
        "system/cpu_memory": _resident_bytes() / 2**30,
        "system/gpu_memory": sum(stat.get("peak_bytes_in_use", 0) for stat in stats) / 2**30,
    }


def _resident_bytes() -> int:
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    except OSError:  # no /proc: return the peak, which is in bytes on macOS and in kilobytes elsewhere
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
