"""Recurrent PPO of Stable-Baselines3 (sb3-contrib) on a swarm that shares one network with memory.

    python -m trainers.sb3_lstm --preset multi
    python -m trainers.sb3_lstm --preset single --scenario rooms --folder runs/rooms_lstm

The pipeline of Entropy V2. Its folder holds `checkpoints/checkpoint.zip` while it trains, `models/` of finished trainings,
`runs/` with metrics and TensorBoard events, and `videos/`. The same command after a crash, a kill or Ctrl-C goes on from
the checkpoint, exactly as if nothing had happened. At the end the model goes to `models/` under the next free number, the
checkpoint is deleted, and the model is evaluated on fresh worlds.
"""

from __future__ import annotations

import contextlib
import dataclasses
import signal
import sys
from contextlib import AbstractContextManager
from pathlib import Path

from trainers.run.checkpoint import CheckpointError
from trainers.run.config import parse_config
from trainers.run.curriculum import HARDEST
from trainers.run.loop import TrainingDivergedError
from trainers.run.terminal import say, warnings_as_lines
from trainers.track.wandb import Tracker

try:
    import trainers.sb3  # noqa: F401 - says which extra is missing
except ModuleNotFoundError as error:
    if __name__ == "__main__":
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    raise

from trainers.sb3.options import LstmConfig
from trainers.sb3.training import Training, report
from trainers.sb3.workspace import open_workspace


def train(config: LstmConfig) -> Path:
    """Train to `config.total_steps`, or go on to there from the checkpoint in the folder; the path of the model.

    Raises ValueError for a swarm that cannot be or a checkpoint of other options, CheckpointError for a damaged one,
    OSError where the folder cannot be used, TrainingDivergedError as soon as a loss is not finite, and KeyboardInterrupt,
    once all is saved, after Ctrl-C.
    """
    if config.base_model and not config.base_model.is_file():
        raise FileNotFoundError(f"no base model {config.base_model}")
    for level in range(config.difficulty, (HARDEST if config.curriculum else config.difficulty) + 1):
        config.task.but(difficulty=level).resolve()  # a swarm that cannot be leaves no folders behind
    with open_workspace(config.folder) as workspace:
        training = Training(config, workspace)
        training.begin()
        with training_tracker(training) as tracker:
            if config.videos and training.model.num_timesteps == 0:
                training.film("start", tracker)
            training.learn(tracker)
            path = training.finish()
            try:
                if config.videos:
                    training.film("end", tracker)
                if config.eval_episodes:
                    report(path, config.eval_episodes)
            except KeyboardInterrupt:
                say(f"Stopped. The model is whole; evaluate it with: python -m trainers.evaluate {path}")
                raise
    return path


def training_tracker(training: Training) -> AbstractContextManager[Tracker | None]:
    """W&B where it is asked for."""
    config = training.config
    if not config.wandb:
        return contextlib.nullcontext()
    tracker = Tracker(
        config.folder, config.wandb_project, f"{training.name}-{training.track_id}", dataclasses.asdict(config)
    )
    say(f"W&B: {tracker.where}")
    return tracker


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    config = parse_config(LstmConfig, argv, prog="python -m trainers.sb3_lstm", description=__doc__)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C
    with warnings_as_lines():
        try:
            train(config)
        except KeyboardInterrupt:
            return 130
        except (
            ValueError,
            OSError,
            RuntimeError,
            CheckpointError,
            ModuleNotFoundError,
            TrainingDivergedError,
        ) as error:
            say(f"error: {error}", sys.stderr)
            return 1 if isinstance(error, TrainingDivergedError) else 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
