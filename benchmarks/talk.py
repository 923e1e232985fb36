"""Measure what robots reach that talk, and what is left when nobody hears them.

    python -m benchmarks.talk --rows relay lookout --json benchmarks/results/talk.json

See `benchmarks.trials` for what a row is. Rows of `relay` with 4 robots are also played with 8, and with words cut, shuffled,
replaced by noise and lost. From the first seed of `relay` a second training goes on with a price for every word.
"""

from __future__ import annotations

import dataclasses
import json
import tempfile
from pathlib import Path
from typing import Any

import tyro

from benchmarks.measure import python
from benchmarks.training import FIGURES
from benchmarks.trials import Options, Trials
from trainers.jax_ppo import PPOConfig
from trainers.run.config import load_config

SOFT = "--speech", "soft"
PRICE = "--env-params", "reward_bandwidth", "0.01", "--token-entropy-coefficient", "0.003", "--total-steps", "10000000"
MEMORY = "--preset", "memory", "--entropy-coefficient-final", "0.01"  # as in the detours of `corridor`


@dataclasses.dataclass(frozen=True)
class Trial:
    """Trainings that differ in their seed alone."""

    scenario: str
    flags: tuple[str, ...]
    steps: int  # agent steps
    seeds: int = 1
    difficulty: int = 1
    robots: int = 4
    crowd: int = 0  # robots with which the policy plays, too
    price: tuple[str, ...] = ()  # flags of a second training, which goes on from the first with a price for words
    module = "trainers.jax_ppo"

    @property
    def where(self) -> tuple[str, ...]:
        """Flags for the worlds."""
        return "--scenario", self.scenario, "--difficulty", str(self.difficulty), "--num-agents", str(self.robots)

    def options(self, seed: int, total_steps: int | None) -> list[str]:
        """Return the flags of a training."""
        return [*self.where, *self.flags, "--total-steps", str(total_steps or self.steps), "--seed", str(seed)]

    def played_in(self) -> tuple[str, ...]:
        """Return further flags of the evaluation."""
        return ()

    def more(self, run: Path, episodes: int) -> dict[str, Any]:
        """Return what an evaluation says of words, the worst tenth of worlds, more robots, and a price."""
        further = _figures(run / "evaluation.json", also=("words", "worst_tenth"))
        if self.crowd:
            crowd = "--num-agents", str(self.crowd), "--no-words"
            python("-m", "trainers.evaluate", str(run), *crowd, "--episodes", str(episodes))
            path = run / f"evaluation-{self.crowd}.json"
            further["crowd"] = {"num_agents": self.crowd} | _figures(path, FIGURES)
        if self.price and load_config(PPOConfig, run / "config.yaml").seed == 0:
            with tempfile.TemporaryDirectory() as folder:
                dear = f"{folder}/dear"
                given = *self.where, *self.price, "--init-from", str(run), "--run-dir", dear
                python("-m", self.module, *given)
                python("-m", "trainers.evaluate", dear, "--episodes", str(episodes))
                found = _figures(Path(dear, "evaluation.json"), (*FIGURES, "words"))
                further["price"] = {"flags": " ".join(self.price)} | found
        return further


def _figures(path: Path, names: tuple[str, ...] = (), also: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return figures of an evaluation, of sampled actions, and with `names` those of mean actions as `deterministic`."""
    found = json.loads(path.read_text())
    figures = {name: found[name] for name in (*names, *also) if name in found}
    mean = found["deterministic"]
    return figures | ({"deterministic": {name: mean[name] for name in names if name in mean}} if names else {})


TRIALS = {  # by the name of their row
    "relay": Trial("relay", SOFT, 15_000_000, 3, crowd=8, price=PRICE),
    "relay, difficulty 4": Trial("relay", SOFT, 20_000_000, difficulty=4),
    "relay, no words": Trial("relay", ("--comm-neighbours", "0"), 10_000_000),
    "relay, reinforced": Trial("relay", ("--speech", "reinforced"), 14_000_000),
    "relay, differentiable": Trial("relay", ("--speech", "differentiable"), 40_000_000),
    "lookout": Trial("lookout", SOFT, 10_000_000, 3),
    "corridor": Trial("corridor", MEMORY, 10_000_000, robots=10),
    "corridor, words": Trial("corridor", (*MEMORY, "--comm-neighbours", "8"), 10_000_000, robots=10),
}
TALK = Trials("talk", TRIALS)


def main(options: Options) -> None:
    """Run the rows that are missing, and print one line for each."""
    TALK.run(options)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
