"""What every benchmark row says of where it was measured, and where rows go."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import jax

from trainers.common.files import to_json, write_atomic

PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy")


def provenance() -> dict[str, Any]:
    """Device, versions and commit."""
    device = jax.devices()[0]
    return {
        "device": f"{platform.machine()}, {_cores()} cores" if device.platform == "cpu" else device.device_kind,
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES}
        | {"python": platform.python_version()},
        "commit": _git("rev-parse", "--short", "HEAD") + ("+changes" if _git("status", "--porcelain", "-uno") else ""),
    }


def save_rows(path: Path, rows: list[dict[str, Any]], keep: str | None = None) -> None:
    """Write rows, each with its provenance. With `keep`, earlier rows whose `keep` value is another stay."""
    old = json.loads(path.read_text()) if keep and path.exists() else []
    fresh = {row[keep] for row in rows} if keep else set()
    where = provenance()
    rows = [row for row in old if row[keep] not in fresh] + [row | where for row in rows]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, to_json(rows, indent=1) + "\n")


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], capture_output=True, text=True, cwd=Path(__file__).parent, check=False)
    return done.stdout.strip() if done.returncode == 0 else "unknown"
