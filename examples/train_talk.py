"""Train robots that tell each other where to go, film them, and draw which words they use.

    python examples/train_talk.py
    python examples/train_talk.py --total-steps 10000000

Each robot of a pair sees the other's goal (scenario `relay`). At first they say the truth, more and more seldom, and learn to
say it themselves. It prints how many arrive, and how many when nobody hears a word.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pygame
import tyro

from entropy_env import vocabulary
from trainers.evaluate import evaluate, make_env
from trainers.evaluation.film import write_film
from trainers.evaluation.play import episode_key, film
from trainers.jax_ppo import PPOConfig, train
from trainers.policies import load_policy


@dataclasses.dataclass(frozen=True)
class Options:
    """What to train."""

    total_steps: int = 5_000_000
    """Agent steps to train for."""
    num_agents: int = 4
    """Robots, an even number."""
    run_dir: Path | None = None
    """Folder of the run, by default a new one in runs/."""
    episodes: int = 256
    """Evaluation episodes."""


def last_words(run: Path) -> np.ndarray:
    """Return how often each token was said in the last update, (32,)."""
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return np.array(json.loads(lines[-1])["comm/token_distribution"]["counts"])


def draw_histogram(path: Path, counts: np.ndarray) -> Path:
    """Draw the share of each token that was said at all."""
    said = [int(token) for token in np.argsort(-counts, kind="stable") if counts[token]][:12]
    pygame.font.init()
    font, picture = pygame.font.Font(None, 22), pygame.Surface((560, 28 * len(said) + 16))
    picture.fill("white")
    for row, token in enumerate(said):
        share, top = counts[token] / counts.sum(), 8 + 28 * row
        pygame.draw.rect(picture, "#0072b2", (150, top + 2, max(1, round(320 * share)), 22))
        for text, left in ((vocabulary.name_of(token), 8), (f"{share:.1%}", 158 + round(320 * share))):
            picture.blit(font.render(text, True, "black"), (left, top + 5))
    pygame.image.save(picture, path)
    return path


def main(options: Options) -> dict[str, float]:
    """Train, evaluate, film and draw. Returns the success with words, and with words cut."""
    config = PPOConfig(
        scenario="relay", num_agents=options.num_agents, speech="soft", total_steps=options.total_steps,
        run_dir=options.run_dir,
    )  # fmt: skip
    run = train(config)
    figures = evaluate(run, options.episodes)
    success = {"with words": figures["success"]["mean"], "cut": figures["words"]["success"]["cut"]["mean"]}
    for name, share in success.items():
        print(f"{share:.1%} of the robots arrive {name}")
    policy = load_policy(run)
    env, params = make_env(policy)
    steps = film(policy, env, params, episode_key(0, 0), sampled=True)
    print("film:", write_film(run / "videos" / "relay.gif", steps, env.spec, params, "relay"))
    print("words:", draw_histogram(run / "words.png", last_words(run)))
    return success


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
