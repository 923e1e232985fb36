"""Trained policies in several worlds, as one GIF or MP4 with trails and lidar.

    python examples/render_worlds.py runs/rooms runs/obstacles --out worlds.gif
    python examples/render_worlds.py runs/rooms runs/maze --best-of 12 --speed 2 --out best.gif

Each policy drives in a world of the kind that it was trained in, beside the others.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
import tyro

from entropy_env.env import Swarm
from entropy_env.render import Renderer
from entropy_env.render.video import write_video
from entropy_env.types import SwarmParams
from trainers.evaluation.play import TimeStep, episode_key, live
from trainers.policies import load_policy

TRAIL = 40  # positions drawn behind each robot
COLUMNS = 2  # of worlds in the picture


def play(run_dir: Path, episodes: int) -> tuple[Swarm, SwarmParams, list[TimeStep]]:
    """Play some episodes and return the best: the one in which most robots arrive, and of those the quickest."""
    policy = load_policy(run_dir)
    env, params = policy.task.make("terminate")
    begin = live(policy, env, params)
    played = (list(begin(episode_key(0, index), True)) for index in range(episodes))
    best = min(played, key=lambda time_steps: (time_steps[-1].state.active.sum(), len(time_steps)))
    print(
        f"{run_dir}: {(~best[-1].state.active).sum()} of {policy.task.num_agents} robots arrived in {len(best)} steps"
    )
    return env, jax.device_get(params), best


def main(
    run_dirs: tyro.conf.Positional[tuple[Path, ...]],
    best_of: int = 1,
    lidars: int = 1,
    speed: int = 1,
    size: tuple[int, int] = (480, 360),
    out: Path = Path("worlds.mp4"),
) -> None:
    """Play an episode with the policy of each run folder and write all to --out, each in a tile of --size px at most.

    The first --lidars worlds show lidar. At --speed 2 every second step is drawn. A GIF with little lidar is small.
    """
    worlds = [play(run_dir, best_of) for run_dir in run_dirs]
    renderer = Renderer(max_size=size, show_lidar=True, trails=TRAIL)

    def tile(index: int, step: int) -> np.ndarray:
        env, params, time_steps = worlds[index]
        renderer.retrace(time_step.state for time_step in time_steps[max(0, step - TRAIL) : step])
        shown = time_steps[min(step, len(time_steps) - 1)]
        lidar = shown.obs[:, env.spec.slice("lidar")] if index < lidars else None
        about = {"title": env.scenario.name, "spec": env.spec, "attention": shown.attention}
        return np.asarray(renderer.draw(shown.state, params, lidar, **about))

    def frames() -> Iterator[np.ndarray]:
        for step in range(0, max(len(time_steps) for _, _, time_steps in worlds), speed):
            tiles = [tile(index, step) for index in range(len(worlds))]
            tiles += [np.full_like(tiles[0], 255)] * (-len(tiles) % COLUMNS)
            rows = [tiles[first : first + COLUMNS] for first in range(0, len(tiles), COLUMNS)]
            yield np.concatenate([np.concatenate(row, axis=1) for row in rows])

    print(f"Wrote {write_video(out, frames(), fps=1 / float(worlds[0][1].dt))}")


if __name__ == "__main__":
    tyro.cli(main)
