"""Measure what PPO in JAX reaches, and how fast. Every row is a separate run, evaluated on episodes it has never seen.

    python -m benchmarks.training --suite quickstart --json benchmarks/results/training.json

Suites: `speed` measures updates after compilation, and the compile time apart: the default, a GRU, and that in `maze`
without and with the reward of shortest ways. `quickstart` is the default run with five seeds; its seconds are from the
start of the process to the trained policy, with an empty compilation cache. `scenarios` trains with default
hyperparameters on every other family for 20 M agent steps. `curriculum` trains through the four levels of
`--curriculum default`, and on its last level alone; both are evaluated on the last level. An agent step is one lane
advanced by one control period and learned from.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import tyro

from benchmarks.measure import progress, python
from benchmarks.report import save_rows
from trainers.jax_ppo import SWARMS, PPOConfig, make_ppo
from trainers.run.loop import compile_update
from trainers.run.stopping import SUCCESS

LAST_LEVEL = "--scenario", "curriculum", "--difficulty", "4"
FIGURES = ("success", "world_success", "collision_rate", "steps_to_goal", "spl", "return")


WARM_UP = 3  # updates that are not counted
GRU: dict[str, Any] = {"network": "gru", "shared_trunk": True, "hidden_sizes": (64,), "sequence_length": 16}
MAZE = GRU | {"scenario": "maze"}
SHORTEST_WAYS = {"env_params": SWARMS["memory"]["env_params"]}


@dataclasses.dataclass(frozen=True)
class Options:
    """What to run."""

    suite: Literal["speed", "quickstart", "scenarios", "curriculum"] = "speed"
    """Suite to run."""
    json: Path | None = None
    """File to write to. Its rows of this suite are replaced."""
    seeds: int = 5
    """Number of training seeds in the quickstart and curriculum suites."""
    scenarios: tuple[str, ...] = ("obstacles", "rooms", "crossing", "circle", "corridor", "maze")
    """Scenarios of the scenarios suite."""
    total_steps: int = 20_000_000
    """Agent steps of each run in the scenarios and curriculum suites."""
    episodes: int = 256
    """Evaluation episodes of each run."""
    updates: int = 40
    """Number of updates to time in the speed suite."""


def speed(updates: int, *variants: dict[str, Any]) -> list[dict[str, Any]]:
    """Time updates after compilation, without logging, in turn for all variants. Returns a row for each.

    variants: options of PPO; the others keep their defaults.
    """
    learners = [Learner(variant) for variant in variants]
    for _ in progress(range(updates + WARM_UP), "updating"):
        for learner in learners:
            learner.update()
    return [learner.row() for learner in learners]


class Learner:
    """PPO with some options, whose updates are timed."""

    def __init__(self, options: dict[str, Any]) -> None:
        self.options, self.config = options, PPOConfig(**options)
        ppo, self._env_params, _ = make_ppo(self.config)
        self._runner = ppo.init(jax.random.key(0), self._env_params)
        self._update, self._compile_s = compile_update(ppo, self._runner, self._env_params)
        self._times: list[float] = []
        self._active: list[float] = []

    def update(self) -> None:
        """Do one update."""
        started = time.perf_counter()
        self._runner, metrics = self._update(self._runner, self._env_params)
        self._active.append(float(metrics["train/active_share"]))
        self._times.append(time.perf_counter() - started)

    def row(self) -> dict[str, Any]:
        """Return the row of the median over all updates but the first."""
        config = self.config
        reuses = (
            {"layout_reuses": int(jnp.sum(self._runner.env_state.layout_reuses))} if "scenario" in self.options else {}
        )
        return {
            "num_agents": config.num_agents,
            "num_envs": config.num_envs,
            "scenario": config.scenario,
            "options": self.options,
            "agent_steps_per_s": round(config.steps_per_update / statistics.median(self._times[WARM_UP:])),
            "active_share": round(statistics.mean(self._active[WARM_UP:]), 4),
            "compile_s": round(self._compile_s, 2),
            **reuses,
        }


def trained(
    flags: list[str], episodes: int, curve: bool = False, module: str = "trainers.jax_ppo", play_in: Sequence[str] = (),
    more: Callable[[Path], dict[str, Any]] = lambda run: {},
) -> dict[str, Any]:  # fmt: skip
    """Train from the command line with an empty compilation cache, and evaluate. Returns the figures of both.

    curve: also return the success of some 50 updates, by agent step. play_in: further flags of the evaluation.
    more: returns further figures of the run folder.
    """
    with tempfile.TemporaryDirectory() as folder:
        run, cache = f"{folder}/run", f"{folder}/cache"
        started = time.perf_counter()
        python("-m", module, "--run-dir", run, *flags, JAX_COMPILATION_CACHE_DIR=cache)
        seconds = time.perf_counter() - started
        python("-m", "trainers.evaluate", run, "--episodes", str(episodes), *play_in, JAX_COMPILATION_CACHE_DIR=cache)
        (path,) = Path(run).glob("evaluation*.json")
        evaluation = json.loads(path.read_text())
        lines = [json.loads(line) for line in Path(run, "metrics.jsonl").read_text().splitlines()]
        further = more(Path(run))
    speeds = [line["train/fps"] for line in lines]
    figures: dict[str, Any] = {name: evaluation[name] for name in FIGURES}
    if curve:
        success, _ = SUCCESS
        known = [(line["step"], round(line[success], 4)) for line in lines if success in line]
        figures["curve"] = known[:: max(len(known) // 50, 1)]
    return {
        "total_s": round(seconds, 1),
        "agent_steps": lines[-1]["step"],
        "agent_steps_per_s": round(statistics.median(speeds)),
        "active_share": round(statistics.mean(line["train/active_share"] for line in lines), 4),
        "episodes": episodes,
        **figures,
        **further,
        "deterministic": {name: evaluation["deterministic"][name] for name in FIGURES},
    }


def main(options: Options) -> None:
    """Run one suite, and print one line per row."""
    rows: list[dict[str, Any]] = []
    if options.suite == "speed":
        rows += speed(options.updates, {}, GRU, MAZE, MAZE | SHORTEST_WAYS)
    elif options.suite == "quickstart":
        for seed in progress(range(options.seeds), "training"):
            rows += [{"scenario": "open", "seed": seed} | trained(["--seed", str(seed)], options.episodes)]
    elif options.suite == "curriculum":
        for seed in progress(range(options.seeds), "training"):
            for name, ways in ("default curriculum", ["--curriculum", "default"]), ("last level alone", LAST_LEVEL):
                flags = [*ways, "--total-steps", str(options.total_steps), "--seed", str(seed)]
                rows += [{"scenario": name, "seed": seed} | trained(flags, options.episodes)]
    else:
        for name in progress(options.scenarios, "training"):
            flags = ["--scenario", name, "--total-steps", str(options.total_steps)]
            rows += [{"scenario": name, "seed": 0} | trained(flags, options.episodes)]
    rows = [
        {"benchmark": f"training/{options.suite}", "engine": "jax", "num_agents": 10, "num_envs": 256} | row
        for row in rows
    ]
    for row in rows:
        means = {f"{mode}success": figures["success"]["mean"] for mode, figures in
                 (("", row), ("deterministic ", row.get("deterministic", {}))) if "success" in figures}  # fmt: skip
        print(row["scenario"], f"{row['agent_steps_per_s']:,} agent steps/s", row.get("total_s", ""), means)
    if options.json:
        save_rows(options.json, rows, keep="benchmark")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
