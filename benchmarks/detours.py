"""Measure what policies reach that remember, in worlds where robots must make detours and give way.

    python -m benchmarks.detours --rows maze rooms --json benchmarks/results/detours.json

Every row is a training of its own, evaluated on 256 worlds that it has never seen, with sampled and with mean actions. It
holds its command, the options that this stands for, and its learning curve. What the file has with the same options is not
trained again, so a stopped run goes on. Leave the code alone meanwhile: every training starts from it.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import queue
import threading
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from benchmarks.measure import progress
from benchmarks.report import provenance, save_rows
from benchmarks.training import FIGURES, trained
from entropy_env import Swarm, SwarmSpec
from entropy_env.engines.numba_engine.threads import num_cores
from entropy_env.scenarios import Open
from trainers.evaluate import evaluate_policy
from trainers.jax_ppo import SWARMS, PPOConfig
from trainers.policies import load_policy
from trainers.run.config import parse_config
from trainers.run.files import to_json


def part(*names: str) -> tuple[str, ...]:
    """Return the flags for some options of the preset `memory`."""
    flags: list[str] = []
    for name in names:
        value = SWARMS["memory"][name]
        items = itertools.chain(*value.items()) if isinstance(value, dict) else [value]
        flags += [f"--{name.replace('_', '-')}", *map(str, items)]
    return tuple(flags)


ALL = "--preset", "memory"
BATCH = part("num_envs", "num_steps")
GRU = *BATCH, *part("network")
SHORTEST_WAYS = part("env_params")
NOISE = part("entropy_coefficient", "entropy_coefficient_final")
CORRIDOR = *ALL, "--entropy-coefficient-final", "0.01"  # giving way must be found for longer


@dataclasses.dataclass(frozen=True)
class Trial:
    """Trainings that differ in their seed alone."""

    scenario: str  # to play in, and to train in unless a curriculum says where
    flags: tuple[str, ...]
    steps: int  # agent steps
    seeds: int
    crowd: int = 0  # robots in the same density, with which the policy plays too

    @property
    def where(self) -> tuple[str, ...]:
        """Flags for the worlds to play in."""
        return "--scenario", self.scenario, "--difficulty", "1"

    def options(self, seed: int, total_steps: int | None) -> list[str]:
        """Return the flags of a training."""
        where = () if "--curriculum" in self.flags else self.where
        return [*where, *self.flags, "--total-steps", str(total_steps or self.steps), "--seed", str(seed)]

    @property
    def module(self) -> str:
        """The program that trains."""
        return "benchmarks.practice" if "--curriculum" in self.flags else "trainers.jax_ppo"


def lever(*flags: str) -> Trial:
    """Return a short trial in the maze."""
    return Trial("maze", flags, 5_000_000, 3)


def practice(*flags: str) -> Trial:
    """Return a short trial for the corridor."""
    return Trial("corridor", (*CORRIDOR, *flags), 10_000_000, 1)


TRIALS = {  # by the name of their row
    "maze": Trial("maze", ALL, 30_000_000, 3),
    "rooms": Trial("rooms", ALL, 30_000_000, 2),
    "corridor": Trial("corridor", CORRIDOR, 60_000_000, 1),
    "open": Trial("open", ALL, 10_000_000, 1, crowd=100),
    **{name: Trial(name, ALL, 10_000_000, 1) for name in ("obstacles", "crossing")},
    "circle": Trial("circle", ALL, 20_000_000, 1),
    "maze, no memory": lever(*BATCH),
    "maze, GRU": lever(*GRU),
    "maze, GRU, central critic": lever(*GRU, "--critic", "central"),
    "maze, GRU, privileged critic": lever(*GRU, "--critic", "privileged"),
    "maze, GRU, normalised values": lever(*GRU, "--normalize-value"),
    "maze, GRU, independent": lever(*GRU, "--sharing", "independent"),
    "maze, GRU, terminate": lever(*GRU, "--on-goal", "terminate"),
    "maze, GRU, learnable levels": lever(*GRU, "--learnable-share", "0.5"),
    "maze, GRU, shortest ways": lever(*GRU, *SHORTEST_WAYS),
    "maze, GRU, noise": lever(*GRU, *NOISE),
    "maze, all but memory": lever(*ALL, "--network", "mlp"),
    "maze, all": lever(*ALL),
    "corridor, begin": practice(),
    "corridor, 64 rays": practice("--num-rays", "64"),
    "corridor, widths": practice("--curriculum", "benchmarks/widths.yaml"),
    "corridor, traffic": practice("--curriculum", "benchmarks/traffic.yaml"),
    "corridor, terminate": practice("--on-goal", "terminate"),
    "corridor, less noise": practice("--entropy-coefficient", "0.001", "--entropy-coefficient-final", "0.001"),
    "corridor, no memory": practice("--network", "mlp"),
    "corridor, local critic": practice("--critic", "local"),
    "corridor, central critic": practice("--critic", "central"),
}


@dataclasses.dataclass(frozen=True)
class Options:
    """What to run."""

    rows: tuple[str, ...] = tuple(TRIALS)
    """Names of rows, see TRIALS."""
    json: Path | None = None
    """File to add rows to."""
    seeds: int | None = None
    """Number of training seeds, instead of each row's own."""
    total_steps: int | None = None
    """Agent steps of each training, instead of each row's own."""
    episodes: int = 256
    """Evaluation episodes of each training."""
    side_by_side: int = 1
    """Number of trainings that run at a time, each on its own share of the cores. Rows say so beside their seconds."""
    timed: bool = True
    """Keep speeds and seconds. Leave them out where other work runs beside the trainings."""

    def __post_init__(self) -> None:
        for name in self.rows:
            if name not in TRIALS:
                raise ValueError(f"rows={name!r} must be one of {', '.join(map(repr, TRIALS))}")
        if not 1 <= self.side_by_side <= num_cores():
            raise ValueError(f"side_by_side={self.side_by_side} must be from 1 to {num_cores()}, the number of cores")


def planned(name: str, seed: int, options: Options) -> dict[str, Any]:
    """Return what is known of a row before its training: its name, command, and the options that are not the default."""
    trial = TRIALS[name]
    flags = trial.options(seed, options.total_steps)
    config, default = dataclasses.asdict(parse_config(PPOConfig, flags)), dataclasses.asdict(PPOConfig())
    return {
        "benchmark": f"detours/{name}/{seed}",
        "engine": "jax",
        "scenario": trial.scenario,
        "num_agents": config["num_agents"],
        "num_envs": config["num_envs"],
        "seed": seed,
        "command": " ".join([f"python -m {trial.module}", *flags]),
        "options": json.loads(to_json({key: value for key, value in config.items() if value != default[key]})),
        "episodes": options.episodes,
    }


def train(name: str, plan: dict[str, Any], options: Options) -> dict[str, Any]:
    """Train and evaluate once, as `planned`. Returns the row."""
    trial = TRIALS[name]
    flags = trial.options(plan["seed"], options.total_steps)
    row = plan | {"side_by_side": options.side_by_side} | trained(
        flags, options.episodes, curve=True, module=trial.module, play_in=trial.where if "--curriculum" in flags else (),
        more=partial(play_in_crowd, trial.crowd, options.episodes) if trial.crowd else lambda run: {},
    )  # fmt: skip
    return row if options.timed else {key: row[key] for key in row if key not in ("total_s", "agent_steps_per_s")}


def play_in_crowd(num_agents: int, episodes: int, run: Path) -> dict[str, Any]:
    """Return what a policy reaches among more robots in `open`, in as much room each as ten have."""
    width, height = (side * (num_agents / 10) ** 0.5 for side in Open(1).sizes[0])
    env = Swarm(SwarmSpec(num_agents=num_agents), Open(size=(width, height)))
    figures = evaluate_policy(load_policy(run), env, env.make_params(), episodes, 0)
    played = {mode: {name: of[name] for name in FIGURES} for mode, of in
              (("sampled", figures), ("mean", figures["deterministic"]))}  # fmt: skip
    return {"crowd": {"num_agents": num_agents, **played}}


def main(options: Options) -> None:
    """Run the rows that are missing, and print one line for each."""
    kept = json.loads(options.json.read_text()) if options.json and options.json.exists() else []
    provenance("jax")  # of the commit of now, for all rows
    wanted = [(name, seed) for name in options.rows for seed in range(options.seeds or TRIALS[name].seeds)]
    # Planned here, because threads that read command lines at the same time may crash Python 3.11 (`ast.parse`).
    plans = [(name, planned(name, seed, options)) for name, seed in wanted]
    plans = [(name, plan) for name, plan in plans if not any(row | plan == row for row in kept)]
    cores: queue.SimpleQueue[set[int]] = queue.SimpleQueue()
    saving = threading.Lock()
    can_pin = hasattr(os, "sched_setaffinity")  # on Linux
    for part in np.array_split(sorted(os.sched_getaffinity(0)) if can_pin else [], options.side_by_side):
        cores.put({int(core) for core in part})

    def run(name: str, plan: dict[str, Any]) -> None:
        row = train(name, plan, options)
        with saving:
            print(f"{name}, seed {plan['seed']}:", described(row), flush=True)
            if options.json:
                save_rows(options.json, [row], keep="benchmark")

    def take_cores() -> None:
        if can_pin:
            os.sched_setaffinity(0, cores.get())  # of this thread, and of the processes that it starts

    with ThreadPoolExecutor(options.side_by_side, initializer=take_cores) as pool:
        runs = [pool.submit(run, *each) for each in plans]
        try:
            for each in progress(as_completed(runs), "training", total=len(runs)):
                each.result()
        finally:
            pool.shutdown(cancel_futures=True)


def described(row: dict[str, Any]) -> str:
    """Return the means of a row in words."""
    means = {f"{mode} {figure}": figures[figure]["mean"] for mode, figures in
             (("sampled", row), ("mean", row["deterministic"])) for figure in ("success", "world_success")}  # fmt: skip
    return ", ".join(f"{key} {value:.4f}" for key, value in means.items())


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
