"""Train a swarm with the recurrent PPO of Stable-Baselines3 (sb3-contrib). All agents share one network with memory.

    python -m trainers.sb3_lstm --preset multi
    python -m trainers.sb3_lstm --preset single --scenario rooms --folder runs/rooms_lstm

This is the pipeline of Entropy V2. Its folder holds `checkpoints/checkpoint.zip` during a training, `models/` of finished
trainings, `runs/` with metrics and TensorBoard events, and `videos/`. After a crash, a kill or Ctrl-C, the same command
goes on from the checkpoint, exactly as if nothing had happened. At the end the model is written to `models/` under the
next free number, the checkpoint is deleted, and the model is evaluated on fresh worlds.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from trainers.run.checkpoint import CheckpointError
from trainers.run.config import parse_config
from trainers.run.curriculum import HARDEST
from trainers.run.hooks import Hook
from trainers.run.loop import TrainingDivergedError
from trainers.run.terminal import say, warnings_as_lines
from trainers.track.tracking import check_installed

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


def train(config: LstmConfig, hooks: Sequence[Hook] = ()) -> Path:
    """Train to `config.total_steps`, and return the path of the model. Goes on from a checkpoint in the folder, if any.

    hooks: as of `trainers.jax_ppo.train`. They get the model of SB3 as `state`, and no inputs.
    Raises ValueError for an impossible swarm, or for a checkpoint with other options, CheckpointError for a damaged one,
    OSError if the folder cannot be used, ModuleNotFoundError for a tracker that is not installed, TrainingDivergedError as
    soon as a loss or the weights are not finite. After Ctrl-C it saves the training and raises KeyboardInterrupt.
    """
    check_installed(config.trackers)
    if config.base_model and not config.base_model.is_file():
        raise FileNotFoundError(f"no base model {config.base_model}")
    for level in range(config.difficulty, (HARDEST if config.curriculum else config.difficulty) + 1):
        config.task.but(difficulty=level).resolve()  # raises for an impossible swarm, before folders are made
    with open_workspace(config.folder) as workspace:
        training = Training(config, workspace, hooks)
        training.begin()
        with training.track() as tracking:
            if config.videos and training.model.num_timesteps == 0:
                training.film("start")
            training.learn(tracking)
            path = training.finish()
            try:
                if config.videos:
                    training.film("end")
                if config.eval_episodes:
                    report(path, config.eval_episodes)
            except KeyboardInterrupt:
                say(f"Stopped. The model is whole; evaluate it with: python -m trainers.evaluate {path}")
                raise
    return path


def main(argv: list[str] | None = None) -> int:
    """Run the command line. Returns the exit status."""
    config = parse_config(LstmConfig, argv, prog="python -m trainers.sb3_lstm", description=__doc__)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # treat SIGTERM as Ctrl-C
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
