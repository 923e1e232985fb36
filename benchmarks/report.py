"""Add to every benchmark row where it was measured, and print, load and save rows."""

from __future__ import annotations

import functools
import importlib.metadata
import json
import platform
import subprocess
from pathlib import Path
from typing import Any

import jax

from entropy_env.engines.numba_engine.threads import num_cores
from trainers.run.files import to_json, write_atomic

PACKAGES = (
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "numpy",
    "numba",
    "torch",
    "stable_baselines3",
    "sb3_contrib",
    "vmas",
    "jaxmarl",
    "camar",
    "gymnax",
)

WRITTEN = "benchmarks/results", "README.md", "benchmarks/README.md"  # by the benchmarks themselves
CHANGES = ("status", "--porcelain", "-uno", "--", ":/", *(f":(top,exclude){path}" for path in WRITTEN))
RESULTS = Path(__file__).parent / "results"


@functools.cache
def provenance(engine: str) -> dict[str, Any]:
    """Return the device that an engine runs on here, the versions of packages, and the commit."""
    device = jax.devices()[0]
    on_cpu = device.platform == "cpu" or engine in ("numba", "vmas")
    installed = {found.name.lower() for found in importlib.metadata.distributions()}
    return {
        "device": f"{platform.machine()}, {num_cores()} cores" if on_cpu else device.device_kind,
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES if name in installed}
        | {"python": platform.python_version()},
        "commit": _git("rev-parse", "--short", "HEAD") + ("+changes" if _git(*CHANGES) else ""),
    }


def show(rows: list[dict[str, Any]]) -> None:
    """Print one line per row."""
    for row in rows:
        ratios = ", ".join(f"{ratio:.2f} x {engine}" for engine, ratio in row.get("ratios", {}).items())
        print(
            f"{row['engine']:8} {row['scenario']:12} {row['num_agents']:6,} x {row['num_envs']:<7,} "
            f"{row['agent_steps_per_s']:>12,} agent steps/s  {ratios}".rstrip()
        )


def load_rows(name: str, folder: Path = RESULTS) -> list[dict[str, Any]]:
    """Return the rows of a result file, or none if there is no such file."""
    path = folder / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else []


def save_rows(path: Path, rows: list[dict[str, Any]], keep: str | None = None) -> None:
    """Write rows, each with its provenance, to a file.

    keep: name of a field. Rows already in the file stay if no new row has their value of that field. Without it all go.
    """
    old = json.loads(path.read_text()) if keep and path.exists() else []
    fresh = {row[keep] for row in rows} if keep else set()
    rows = [row for row in old if row[keep] not in fresh] + [row | provenance(row["engine"]) for row in rows]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, to_json(rows, indent=1) + "\n")


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], capture_output=True, text=True, cwd=Path(__file__).parent, check=False)
    return done.stdout.strip() if done.returncode == 0 else "unknown"
