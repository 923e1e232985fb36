"""Measure what policies reach that remember, in worlds where robots must make detours and give way.

    python -m benchmarks.detours --rows maze rooms --json benchmarks/results/detours.json

See `benchmarks.trials` for what a row is.
"""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import tyro

from benchmarks.training import FIGURES
from benchmarks.trials import Options, Trials
from entropy_env import Swarm, SwarmSpec
from entropy_env.scenarios import Open
from trainers.evaluate import evaluate_policy
from trainers.jax_ppo import SWARMS
from trainers.policies import load_policy


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

    def played_in(self) -> tuple[str, ...]:
        """See `benchmarks.trials.Trial`."""
        return self.where if "--curriculum" in self.flags else ()

    def more(self, run: Path, episodes: int) -> dict[str, Any]:
        """See `benchmarks.trials.Trial`."""
        return play_in_crowd(self.crowd, episodes, run) if self.crowd else {}

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


DETOURS = Trials("detours", TRIALS)


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
    DETOURS.run(options)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
