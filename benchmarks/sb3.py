"""Measure Stable-Baselines3 on the swarm: the steps of its VecEnv, where a training spends its time, what it reaches.

    python -m benchmarks.sb3 --suite speed --json benchmarks/results/sb3.json
    python -m benchmarks.sb3 --suite training --json benchmarks/results/sb3.json

Suites: `speed` times `SwarmVecEnv.step` with random actions, and RecurrentPPO with the `multi` preset, rollouts and updates
apart. It does so with sb3-contrib's own LSTM policy, with ours, and with `trainers.jax_ppo` and nearly the same settings, in
alternating rounds. `training` runs
`python -m trainers.sb3_lstm` from start to evaluation, once per seed, and keeps the learning curves.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import statistics
import tempfile
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
import torch
import tyro
from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy

from benchmarks.measure import Effort, Row, Run, measure, progress, python
from benchmarks.report import save_rows
from entropy_env.adapters.sb3 import SwarmVecEnv
from entropy_env.engines.numba_engine.threads import num_cores
from trainers.jax_ppo import PPOConfig, make_ppo
from trainers.run.loop import compile_update
from trainers.sb3.lstm import LstmPolicy
from trainers.sb3.options import LstmConfig
from trainers.sb3.training import make_model

FIGURES = ("success", "world_success", "collision_rate", "steps_to_goal", "spl", "return")
CURVE = ("step", "env/goal_reached_rate", "train/episode_return", "train/fps")
SEQUENCE = 128  # steps through which the native learner looks back; SB3 looks back to the start of the episode
POLICIES = {"stock": RecurrentActorCriticPolicy, "ours": LstmPolicy}


@dataclasses.dataclass(frozen=True)
class Options:
    """What to run."""

    suite: Literal["speed", "training"] = "speed"
    """Suite to run."""
    json: Path | None = None
    """File to write to. Its rows of this suite are replaced."""
    rounds: int = 3
    """Rounds of a rollout and an update with each policy in the speed suite, after one to warm up."""
    seeds: int = 3
    """Number of training seeds in the training suite."""
    total_steps: int = 1_000_000
    """Agent steps of each training."""
    episodes: int = 256
    """Evaluation episodes of each training."""
    side_by_side: int = 1
    """Number of trainings that run at a time. They share the cores evenly."""
    timed: bool = True
    """Record how long the trainings take. Turn it off on a machine that others use too."""


def vec_env(config: LstmConfig) -> Run:
    """Return the steps of a VecEnv as a run. Its random actions are drawn beforehand."""
    env = SwarmVecEnv(config.num_worlds, config.num_agents, seed=0)  # type: ignore[arg-type]
    env.reset()
    drawn = np.random.default_rng(0).uniform(-1, 1, (64, config.lanes, 2)).astype(np.float32)
    actions = itertools.cycle(drawn)

    def go(num_steps: int) -> None:
        for _ in range(num_steps):
            env.step(next(actions))

    row = {"benchmark": "sb3/speed", "what": "vec_env"}
    return Run(row, go, config.lanes, episode=200)


class Pipeline:
    """A training with timed phases."""

    def __init__(self, config: LstmConfig, policy: str) -> None:
        self.config, self.policy = config, policy
        self.model = make_model(config)
        self.model.policy.__class__ = POLICIES[policy]
        env = self.model.get_env()
        assert env is not None
        self.seconds: dict[str, float] = defaultdict(float)
        self.rows: list[dict[str, float]] = []
        self._time(self.model, "collect_rollouts", "rollout")
        self._time(self.model, "train", "update")
        self._time(env, "step", "env")
        self._time(self.model.policy, "forward", "lstm")
        self._time(self.model.policy, "predict_values", "bootstrap")

    def _time(self, owner: Any, name: str, phase: str) -> None:
        plain = getattr(owner, name)

        @functools.wraps(plain)
        def timed(*args: Any, **kwargs: Any) -> Any:
            started = time.perf_counter()
            result = plain(*args, **kwargs)
            self.seconds[phase] += time.perf_counter() - started
            return result

        setattr(owner, name, timed)

    def round(self) -> None:
        """Do one rollout and one update."""
        self.seconds.clear()
        self.model.learn(self.config.steps_per_rollout, reset_num_timesteps=False)
        self.rows.append(dict(self.seconds))

    def row(self) -> Row:
        """Return the row of the medians over all rounds but the first."""
        median = {phase: statistics.median(row[phase] for row in self.rows[1:]) for phase in self.rows[0]}
        steps = self.config.steps_per_rollout
        return {
            "benchmark": "sb3/speed",
            "what": "pipeline",
            "policy": self.policy,
            "agent_steps_per_s": round(steps / (median["rollout"] + median["update"])),
            "rollout_steps_per_s": round(steps / median["rollout"]),
            "update_steps_per_s": round(steps / median["update"]),
            "env_share_of_rollout": round(median["env"] / median["rollout"], 4),
            "lstm_share_of_rollout": round(median["lstm"] / median["rollout"], 4),
            "bootstrap_share_of_rollout": round(median["bootstrap"] / median["rollout"], 4),
            "rollout_s": round(median["rollout"], 3),
            "update_s": round(median["update"], 3),
            "threads": torch.get_num_threads(),
        }


class Native:
    """A training with `trainers.jax_ppo` of as many robots, epochs and units. Minibatches are whole worlds: 8, not 10."""

    def __init__(self, config: LstmConfig) -> None:
        size = config.lstm_hidden_size
        own = PPOConfig(
            num_envs=config.num_worlds, num_steps=config.n_steps, num_minibatches=8, num_epochs=config.n_epochs,
            network="lstm", cell_size=size, hidden_sizes=(), head_sizes=(64, 64), sequence_length=SEQUENCE,
        )  # fmt: skip
        ppo, self._inputs, _ = make_ppo(own)
        self._runner = ppo.init(jax.random.key(0), self._inputs)
        self._update, self.compile_s = compile_update(ppo, self._runner, self._inputs)
        self._steps, self._seconds = own.steps_per_update, []  # type: ignore[var-annotated]

    def round(self) -> None:
        """Do one rollout and one update."""
        started = time.perf_counter()
        self._runner, _ = jax.block_until_ready(self._update(self._runner, self._inputs))
        self._seconds.append(time.perf_counter() - started)

    def row(self) -> Row:
        """Return the row of the median over all rounds but the first."""
        return {
            "benchmark": "sb3/speed",
            "engine": "jax",
            "what": "pipeline",
            "policy": "native",
            "sequence_length": SEQUENCE,
            "agent_steps_per_s": round(self._steps / statistics.median(self._seconds[1:])),
            "compile_s": round(self.compile_s, 2),
        }


def speed(options: Options) -> list[Row]:
    """Measure the environment alone, then all ways to train in turn."""
    config = LstmConfig()
    rows = measure([vec_env(config)], Effort(seconds=1.0))
    pipelines = [*(Pipeline(config, policy) for policy in POLICIES), Native(config)]
    for _ in progress(range(options.rounds + 1), "training"):
        for pipeline in pipelines:
            pipeline.round()
    return rows + [pipeline.row() for pipeline in pipelines]


def trained(options: Options, seed: int) -> Row:
    """Train from the command line, and return the row, with the learning curve."""
    with tempfile.TemporaryDirectory() as folder:
        flags = ["--seed", str(seed), "--total-steps", str(options.total_steps), "--no-videos", "--folder", folder]
        flags += ["--eval-episodes", str(options.episodes)]
        threads = max(num_cores() // options.side_by_side, 1)
        started = time.perf_counter()
        python("-m", "trainers.sb3_lstm", *flags, OMP_NUM_THREADS=str(threads))
        seconds = time.perf_counter() - started
        evaluation = json.loads(Path(folder, "models", "swarm_1-evaluation.json").read_text())
        lines = [json.loads(line) for line in Path(folder, "runs", "swarm_1", "metrics.jsonl").read_text().splitlines()]
    speed = {"total_s": round(seconds, 1), "agent_steps_per_s": statistics.median(line["train/fps"] for line in lines)}
    return {
        "benchmark": "sb3/training",
        "seed": seed,
        **({name: round(value, 1) for name, value in speed.items()} if options.timed else {}),
        "threads": threads,
        "side_by_side": options.side_by_side,
        "agent_steps": lines[-1]["step"],
        "episodes": options.episodes,
        **{name: evaluation[name] for name in FIGURES},
        "deterministic": {name: evaluation["deterministic"][name] for name in FIGURES},
        "curve": [{name: line.get(name) for name in CURVE if options.timed or name != "train/fps"} for line in lines],
    }


def main(options: Options) -> None:
    """Run one suite, and print one line per row."""
    if options.suite == "speed":
        rows = speed(options)
    else:
        with ThreadPoolExecutor(options.side_by_side) as pool:
            rows = list(pool.map(partial(trained, options), range(options.seeds)))
    common = {"engine": "numba", "scenario": "open", "num_agents": 10, "num_envs": 8, "preset": "multi"}
    rows = [common | row for row in rows]
    for row in rows:
        print(json.dumps({name: value for name, value in row.items() if name != "curve"}), flush=True)
    if options.json:
        save_rows(options.json, rows, keep="benchmark")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
