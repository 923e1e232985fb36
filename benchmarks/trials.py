"""Train what a table of trials says, side by side, and keep a row for each training.

Every row is a training of its own, evaluated on worlds that it has never seen, with sampled and with mean actions. It holds
its command, the options that this stands for, and its learning curve. What the file has with the same options is not
trained again, so a stopped run goes on. Leave the code alone meanwhile: every training starts from it.
"""

from __future__ import annotations

import dataclasses
import json
import os
import queue
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from benchmarks.measure import progress
from benchmarks.report import provenance, save_rows
from benchmarks.training import trained
from entropy_env.engines.numba_engine.threads import num_cores
from trainers.jax_ppo import PPOConfig
from trainers.run.config import parse_config
from trainers.run.files import to_json

Row = dict[str, Any]


class Trial(Protocol):
    """Trainings that differ in their seed alone."""

    scenario: str
    module: str  # the program that trains
    seeds: int

    def options(self, seed: int, total_steps: int | None) -> list[str]:
        """Return the flags of a training."""

    def played_in(self) -> tuple[str, ...]:
        """Return further flags of the evaluation."""

    def more(self, run: Path, episodes: int) -> Row:
        """Return further figures of a run folder."""


@dataclasses.dataclass(frozen=True)
class Options:
    """What to run."""

    rows: tuple[str, ...] = ()
    """Names of rows, see TRIALS. By default all."""
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
        if not 1 <= self.side_by_side <= num_cores():
            raise ValueError(f"side_by_side={self.side_by_side} must be from 1 to {num_cores()}, the number of cores")


@dataclasses.dataclass(frozen=True)
class Trials:
    """The trials of a benchmark, by the names of their rows."""

    benchmark: str
    table: Mapping[str, Trial]

    def names(self, options: Options) -> tuple[str, ...]:
        """Return the rows to run. Raises ValueError for a name that is none."""
        for name in options.rows:
            if name not in self.table:
                raise ValueError(f"rows={name!r} must be one of {', '.join(map(repr, self.table))}")
        return options.rows or tuple(self.table)

    def planned(self, name: str, seed: int, options: Options) -> Row:
        """Return what is known of a row before its training: its name, command, and options that are not the default."""
        trial = self.table[name]
        flags = trial.options(seed, options.total_steps)
        config, default = dataclasses.asdict(parse_config(PPOConfig, flags)), dataclasses.asdict(PPOConfig())
        return {
            "benchmark": f"{self.benchmark}/{name}/{seed}",
            "engine": "jax",
            "scenario": trial.scenario,
            "num_agents": config["num_agents"],
            "num_envs": config["num_envs"],
            "seed": seed,
            "command": " ".join([f"python -m {trial.module}", *flags]),
            "options": json.loads(to_json({key: value for key, value in config.items() if value != default[key]})),
            "episodes": options.episodes,
        }

    def train(self, name: str, plan: Row, options: Options) -> Row:
        """Train and evaluate once, as `planned`. Returns the row."""
        trial = self.table[name]
        flags = trial.options(plan["seed"], options.total_steps)
        row = plan | {"side_by_side": options.side_by_side} | trained(
            flags, options.episodes, curve=True, module=trial.module, play_in=trial.played_in(),
            more=lambda run: trial.more(run, options.episodes),
        )  # fmt: skip
        return row if options.timed else {key: row[key] for key in row if key not in ("total_s", "agent_steps_per_s")}

    def run(self, options: Options, train: Callable[[str, Row, Options], Row] | None = None) -> None:
        """Run the rows that are missing, and print one line for each. train: instead of `train`."""
        kept = json.loads(options.json.read_text()) if options.json and options.json.exists() else []
        provenance("jax")  # of the commit of now, for all rows
        names = self.names(options)
        wanted = [(name, seed) for name in names for seed in range(options.seeds or self.table[name].seeds)]
        # Planned here, because threads that read command lines at the same time may crash Python 3.11 (`ast.parse`).
        plans = [(name, self.planned(name, seed, options)) for name, seed in wanted]
        plans = [(name, plan) for name, plan in plans if not any(row | plan == row for row in kept)]
        saving = threading.Lock()

        def run(name: str, plan: Row) -> None:
            row = (train or self.train)(name, plan, options)
            with saving:
                print(f"{name}, seed {plan['seed']}:", described(row), flush=True)
                if options.json:
                    save_rows(options.json, [row], keep="benchmark")

        with ThreadPoolExecutor(options.side_by_side, initializer=_cores(options.side_by_side)) as pool:
            runs = [pool.submit(run, *each) for each in plans]
            try:
                for each in progress(as_completed(runs), "training", total=len(runs)):
                    each.result()
            finally:
                pool.shutdown(cancel_futures=True)


def _cores(parts: int) -> Callable[[], None]:
    """Return a function that gives each thread that calls it, and the processes it starts, its own part of the cores."""
    cores: queue.SimpleQueue[set[int]] = queue.SimpleQueue()
    can_pin = hasattr(os, "sched_setaffinity")  # on Linux
    for part in np.array_split(sorted(os.sched_getaffinity(0)) if can_pin else [], parts):
        cores.put({int(core) for core in part})

    def take() -> None:
        if can_pin:
            os.sched_setaffinity(0, cores.get())

    return take


def described(row: Row) -> str:
    """Return the means of a row in words."""
    means = {f"{mode} {figure}": figures[figure]["mean"] for mode, figures in
             (("sampled", row), ("mean", row["deterministic"])) for figure in ("success", "world_success")}  # fmt: skip
    return ", ".join(f"{key} {value:.4f}" for key, value in means.items())
