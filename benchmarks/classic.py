"""Train PPO on gymnax's CartPole-v1 and Pendulum-v1 with their presets, and evaluate it on episodes it has never seen.

    python -m benchmarks.classic --json benchmarks/results/classic.json

CartPole has 500,000 steps and ten seeds, Pendulum a million steps and five, rounded down to whole updates. Needs the extra
gymnax.
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
from benchmarks.report import save_rows
from trainers.any_env import AnyEnvConfig

CASES = {"cartpole": ("CartPole-v1", 500_000, 10), "pendulum": ("Pendulum-v1", 1_000_000, 5)}  # by preset


@dataclasses.dataclass(frozen=True)
class Options:
    """What to run."""

    presets: tuple[str, ...] = tuple(CASES)
    """Which of: cartpole, pendulum."""
    json: Path | None = None
    """File to write to. Its rows of these environments are replaced."""
    seeds: int | None = None
    """Number of training seeds, instead of ten for CartPole and five for Pendulum."""
    total_steps: int | None = None
    """Steps of each run, instead of 500,000 and a million."""
    episodes: int = 256
    """Evaluation episodes of each run."""


def trained(preset: str, env: str, seed: int, total_steps: int, episodes: int) -> dict[str, Any]:
    """Train in a new process, and evaluate. Returns the figures."""
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        python(
            "-m", "trainers.any_env", "--env", f"gymnax:{env}", "--preset", preset, "--seed", str(seed), "--total-steps",
            str(total_steps), "--episodes", str(episodes), "--run-dir", f"{folder}/run",
        )  # fmt: skip
        seconds = time.perf_counter() - started
        evaluation = json.loads(Path(folder, "run", "evaluation.json").read_text())
        lines = [json.loads(line) for line in Path(folder, "run", "metrics.jsonl").read_text().splitlines()]
    return {
        "total_s": round(seconds, 1),
        "agent_steps": lines[-1]["step"],
        "agent_steps_per_s": round(statistics.median(line["train/fps"] for line in lines)),
        "episodes": episodes,
        "return": evaluation["return"],
        "deterministic": {"return": evaluation["deterministic"]["return"]},
    }


def main(options: Options) -> None:
    """Run everything, and print one line per row."""
    rows = []
    for preset in options.presets:
        env, steps, seeds = CASES[preset]
        config = AnyEnvConfig(preset=preset)
        update = config.num_envs * config.num_steps
        total = (options.total_steps or steps) // update * update
        for seed in progress(range(options.seeds or seeds), f"training in {env}"):
            row = {
                "benchmark": f"classic/{env}",
                "engine": "jax",
                "preset": preset,
                "num_envs": config.num_envs,
                "seed": seed,
            }
            rows.append(row | trained(preset, env, seed, total, options.episodes))
            sampled, mode = rows[-1]["return"]["mean"], rows[-1]["deterministic"]["return"]["mean"]
            print(f"{env} seed {seed}: return {sampled:.1f} sampled, {mode:.1f} deterministic, {rows[-1]['total_s']} s")
    if options.json:
        save_rows(options.json, rows, keep="benchmark")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
