"""Write an episode as a video."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from entropy_env.render import Renderer
from entropy_env.render.video import MAX_GIF_FPS, write_video
from entropy_env.types import SwarmParams, SwarmSpec
from trainers.evaluation.play import TimeStep

TRAIL = 40  # positions drawn behind each agent


def write_film(path: Path, time_steps: Iterable[TimeStep], spec: SwarmSpec, params: SwarmParams, title: str) -> Path:
    """Draw the time steps of one world, one frame each, in real time but at most MAX_GIF_FPS frames per second.

    Returns the path. Raises the errors of `write_video`.
    """
    renderer = Renderer(trails=TRAIL)
    frames = (
        np.asarray(renderer.draw(time_step.state, params, title=title, spec=spec, attention=time_step.attention))
        for time_step in time_steps
    )
    return write_video(path, frames, fps=min(1 / float(params.dt), MAX_GIF_FPS))
