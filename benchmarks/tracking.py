"""Measure what trackers cost a training: its steady speed with them against its speed with none. Prints JSON.

The default PPO trains in a new process for each run, with and without trackers in turn. Steady is the median `train/fps` of
the second half of a run, when trackers have begun. The seconds of whole processes, with the compiler, the beginning of
trackers and their end, stand beside it.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import tyro

from benchmarks.measure import progress, python
from benchmarks.report import provenance
from trainers.track.jsonl import METRICS
from trainers.track.tracking import TRACKERS


@dataclasses.dataclass(frozen=True)
class Options:
    """What to run."""

    pairs: int = 5
    """Number of runs with trackers, and of runs without."""
    total_steps: int = 3_000_000
    """Agent steps of each run."""
    track: tuple[str, ...] = tuple(TRACKERS)
    """Trackers, all at their default rates."""
    num_envs: int = 256
    """Number of worlds."""
    num_agents: int = 10
    """Robots in each world."""


def run(options: Options, trackers: tuple[str, ...]) -> dict[str, float]:
    """Train once, and return the steady speed, in agent steps per second, and the seconds of the whole process."""
    with tempfile.TemporaryDirectory() as folder:
        sizes = [
            f"--{name.replace('_', '-')}={getattr(options, name)}" for name in ("total_steps", "num_envs", "num_agents")
        ]
        kept = {"TRACKIO_DIR": f"{folder}/trackio", "WANDB_MODE": "offline", "MLFLOW_TRACKING_URI": None}
        started = time.perf_counter()
        python("-m", "trainers.jax_ppo", "--run-dir", f"{folder}/run", *sizes, "--track", *trackers, **kept)
        seconds = time.perf_counter() - started
        lines = [json.loads(line) for line in Path(folder, "run", METRICS).read_text().splitlines()]
    speeds = [line["train/fps"] for line in lines]
    return {"steady_fps": statistics.median(speeds[len(speeds) // 2 :]), "process_s": seconds}


def main(options: Options) -> dict[str, Any]:
    """Measure pairs in turn, and return the figures."""
    pairs = [(run(options, ()), run(options, options.track)) for _ in progress(range(options.pairs), "training")]
    ratios = [tracked["steady_fps"] / plain["steady_fps"] for plain, tracked in pairs]
    return {
        "benchmark": "tracking",
        **dataclasses.asdict(options),
        "ratio": round(statistics.median(ratios), 4),
        "ratios": [round(ratio, 4) for ratio in ratios],
        **{
            f"{name}_{what}": round(statistics.median(pair[place][name] for pair in pairs), 1)
            for name in ("steady_fps", "process_s")
            for place, what in enumerate(("without", "with"))
        },
        **provenance("jax"),
    }


if __name__ == "__main__":
    print(json.dumps(main(tyro.cli(Options, description=__doc__)), indent=1))
