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
import json
import signal
import sys
import uuid
import warnings
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
from rich.console import Console

from entropy_env.render.video import side_by_side
from entropy_env.types import SwarmParams
from trainers.evaluation.figures import episode_keys, evaluate_episodes, results_table
from trainers.evaluation.film import write_film
from trainers.evaluation.play import episode_key
from trainers.policies.jax import Task
from trainers.run.checkpoint import CheckpointError
from trainers.run.config import check_numbers, parse_config
from trainers.run.curriculum import HARDEST, Curriculum
from trainers.run.files import to_json, write_atomic
from trainers.run.terminal import say, warnings_as_lines
from trainers.track.dashboard import Dashboard
from trainers.track.loggers import MetricsLogger
from trainers.track.wandb import Tracker

try:
    import trainers.sb3  # noqa: F401 - says which extra is missing
except ModuleNotFoundError as error:
    if __name__ == "__main__":
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    raise

from sb3_contrib import RecurrentPPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from entropy_env.adapters.presets import with_preset
from entropy_env.adapters.sb3 import SwarmVecEnv
from trainers.sb3.callbacks import Checkpoints, EntropySchedule, Figures, Levels, TrainingDivergedError
from trainers.sb3.checkpoint import (
    Saved,
    fit_goals_of_v2,
    load_state,
    normalizer_arrays,
    pack,
    progress_of,
    resume_progress,
    set_normalizer,
    unpack,
)
from trainers.sb3.lstm import LstmPolicy
from trainers.sb3.policy import LanePolicy, film, load_policy, player
from trainers.sb3.workspace import NAME, Workspace, open_workspace

PRESETS: dict[str, dict[str, int]] = {
    "multi": {"num_worlds": 8, "n_steps": 512, "batch_size": 4096},
    "single": {"num_worlds": 1, "n_steps": 2048, "batch_size": 256},
}
MAY_CHANGE = {
    "preset", "folder", "total_steps", "checkpoint_interval", "base_model", "base_from_v2", "videos", "eval_episodes",
    "wandb", "wandb_project",
    "device",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class LstmConfig:
    """Options of recurrent PPO."""

    preset: Literal["multi", "single"] = "multi"
    """Entropy V2's settings. multi: 8 worlds, n_steps 512, batch_size 4096; single: 1 world, 2048 and 256."""
    num_worlds: int | None = None
    """Worlds side by side; by default the preset's."""
    num_agents: int = 10
    """Robots in each world, all of which share one network."""
    n_steps: int | None = None
    """Control periods between updates; by default the preset's."""
    batch_size: int | None = None
    """Samples of a minibatch; by default the preset's."""
    scenario: str = "open"
    """Family of layouts: open, obstacles, rooms, maze, corridor, crossing, circle or curriculum."""
    difficulty: int = 1
    """1 to 4 within the family."""
    curriculum: bool = False
    """Raise the difficulty up to 4, one level each time that 80 % of 100 episodes reach their first goal."""
    total_steps: int = 1_000_000
    """Agent steps to train for, over all lanes; rounded up to whole rollouts."""
    seed: int = 0
    """Decides the weights, the layouts and the noise."""
    folder: Path = Path(".")
    """Where checkpoints, models, runs and videos go."""
    base_model: Path | None = None
    """Zip of a model to begin with instead of fresh weights, where there is no checkpoint."""
    base_from_v2: bool = False
    """The base model is of Entropy V2: fit its goal inputs, which had another scale."""
    checkpoint_interval: int = 50_000
    """Agent steps between checkpoints, each at the end of a rollout."""
    physics: Literal["kinematic", "v2"] = "kinematic"
    """kinematic: robots driven by wheel speeds. v2: the forces, observed velocity, reward and clock of Entropy V2."""
    reward: str | None = None
    """Preset of reward weights, shaped or seed; by default shaped, or what the physics has."""
    env_params: dict[str, float] = dataclasses.field(default_factory=dict, hash=False)
    """Other numbers of the world, for example max_wheel_speed 0.8."""
    learning_rate: float = 3e-4
    """Of Adam."""
    n_epochs: int = 10
    """Passes over each rollout."""
    gamma: float = 0.99
    """Discount per control period."""
    gae_lambda: float = 0.95
    """Decay of the advantage estimate."""
    clip_range: float = 0.2
    """How far an update may move the probability of an action, as a ratio."""
    ent_coef: float = 0.0
    """Weight of the entropy bonus."""
    ent_coef_final: float | None = None
    """Its weight at the end, to which it moves linearly over the training; by default it stays."""
    vf_coef: float = 0.5
    """Weight of the critic's loss."""
    max_grad_norm: float = 0.5
    """Gradients are scaled down to this global norm."""
    lstm_hidden_size: int = 256
    """Units of the memory of the actor, and of the critic."""
    normalize_obs: bool = False
    """Scale observations by their running mean and deviation (VecNormalize)."""
    normalize_reward: bool = False
    """Scale rewards by the running deviation of the return (VecNormalize)."""
    videos: bool = True
    """Film an episode at the start and at the end, and both side by side."""
    eval_episodes: int = 256
    """Fresh worlds to evaluate the finished model on; 0 for none."""
    wandb: bool = False
    """Track the training with Weights & Biases, offline where there is no key."""
    wandb_project: str = "entropy-env"
    """Its project there."""
    device: str = "auto"
    """Of torch: auto, cpu, cuda."""

    def __post_init__(self) -> None:
        if self.preset not in PRESETS:
            raise ValueError(f"preset={self.preset!r} must be one of {', '.join(PRESETS)}")
        for name, value in PRESETS[self.preset].items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        counts = ("num_worlds", "num_agents", "n_steps", "batch_size", "total_steps", "checkpoint_interval", "n_epochs")
        check_numbers(
            self,
            above_0=(*counts, "lstm_hidden_size", "learning_rate", "clip_range", "max_grad_norm"),
            not_negative=("ent_coef", "ent_coef_final", "vf_coef", "eval_episodes"),
            up_to_1=("gamma", "gae_lambda"),
        )
        if self.batch_size > self.steps_per_rollout:  # type: ignore[operator]
            raise ValueError(f"batch_size={self.batch_size} is more than a rollout of {self.steps_per_rollout} steps")
        if self.batch_size == 1 or self.steps_per_rollout % self.batch_size == 1:  # type: ignore[operator]
            raise ValueError(
                f"batch_size={self.batch_size} leaves a minibatch of one of the {self.steps_per_rollout} steps of a "
                f"rollout, whose advantages cannot be normalised"
            )
        if self.base_from_v2:
            if self.base_model is None:
                raise ValueError("base_from_v2 needs base_model, the policy of Entropy V2")
            if self.physics != "v2" or self.normalize_obs:
                raise ValueError(
                    "base_from_v2 needs physics v2 and no normalize_obs: V2's policies observe velocities so"
                )

    def task(self, difficulty: int) -> Task:
        """The worlds at a level."""
        settings = with_preset(self.preset_of_worlds, {"reward": self.reward, **self.env_params})
        known = {"num_rays", "substeps", "drive", "velocity_frame", "reward"}
        chosen = {name: settings.pop(name) for name in known & settings.keys()}
        params = {name: value for name, value in settings.items() if name != "on_goal"}
        return Task(self.scenario, difficulty, self.num_agents, params=params, **chosen)

    @property
    def preset_of_worlds(self) -> str | None:
        """Of `SwarmVecEnv`."""
        return "v2" if self.physics == "v2" else None

    @property
    def lanes(self) -> int:
        """Robots in all worlds."""
        return self.num_worlds * self.num_agents  # type: ignore[operator]

    @property
    def steps_per_rollout(self) -> int:
        """Agent steps, over all lanes."""
        return self.n_steps * self.lanes  # type: ignore[operator]

    @property
    def whole_steps(self) -> int:
        """Agent steps of the whole training, rollouts being whole."""
        return -(-self.total_steps // self.steps_per_rollout) * self.steps_per_rollout


class Training:
    """A model, the worlds it learns in, and where it leaves what comes of it."""

    def __init__(self, config: LstmConfig, workspace: Workspace) -> None:
        self.config, self.workspace = config, workspace
        self.model = make_model(config)
        self.curriculum = Curriculum(level=config.difficulty)
        self.name, self.track_id = workspace.next_name(), uuid.uuid4().hex[:8]

    @property
    def task(self) -> Task:
        """What the model has come to."""
        return self.config.task(self.curriculum.level)

    @property
    def policy(self) -> LstmPolicy:
        return cast(LstmPolicy, self.model.policy)

    @property
    def worlds(self) -> SwarmVecEnv:
        return self.model.get_env().unwrapped  # type: ignore[union-attr, return-value]

    def begin(self) -> None:
        """Go on from the checkpoint, if there is one, or else from the base model, if that is given."""
        saved = self.workspace.find_checkpoint()
        if saved:
            check_same_training(saved, self.config)
            self.resume(saved)
            say(f"Resuming from checkpoint at {self.model.num_timesteps:,} steps")
        elif self.config.base_model:
            self.begin_with(unpack(self.config.base_model))
            say(f"Training {self.name} from {self.config.base_model}")
        else:
            say(f"Training {self.name} from nothing")

    def begin_with(self, base: Saved) -> None:
        """The weights of another model, and the statistics of its normaliser where both have one."""
        if self.config.base_from_v2:
            base = fit_goals_of_v2(base, self.config.env_params.get("goal_scale", float(SwarmParams.goal_scale)))
        load_state(self.policy, base)
        if base.about.get("config", {}).get("normalize_obs", False) != self.config.normalize_obs:
            warnings.warn(f"{base.path} was trained with --normalize-obs the other way", stacklevel=2)
        normalizer = self.model.get_vec_normalize_env()
        if normalizer:
            moments = {name: array for name, array in base.arrays.items() if name != "normalizer/returns"}
            set_normalizer(normalizer, normalizer_arrays(normalizer) | moments)

    def resume(self, saved: Saved) -> None:
        """Continue where `pack` looked."""
        load_state(self.policy, saved)
        prefix = "worlds/"
        try:
            self.policy.optimizer.load_state_dict(saved.weights["policy.optimizer"])
            resume_progress(self.model, saved.arrays)
            self.worlds.restore({n.removeprefix(prefix): a for n, a in saved.arrays.items() if n.startswith(prefix)})
            self.curriculum = Curriculum(**saved.about["curriculum"])
            self.name, self.track_id = saved.about["name"], saved.about["track_id"]
            if not NAME.fullmatch(self.name):  # files are named by it
                raise ValueError(f"name={self.name!r}")
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise CheckpointError(f"{saved.path} does not hold what a training goes on from ({error!r})") from error

    def pack(self, progress: bool) -> bytes:
        """The zip of the model; with all that a training needs to go on, or without."""
        arrays: dict[str, np.ndarray] = {}
        normalizer = self.model.get_vec_normalize_env()
        if progress:
            arrays = progress_of(self.model) | {f"worlds/{n}": a for n, a in self.worlds.snapshot().items()}
        elif normalizer:
            arrays = normalizer_arrays(normalizer)
        about = {
            "name": self.name,
            "track_id": self.track_id,
            "step": self.model.num_timesteps,
            "env": dataclasses.asdict(self.task),
            "config": dataclasses.asdict(self.config),
            "curriculum": vars(self.curriculum),
        }
        return pack(self.model, about, arrays)

    def learn(self, tracker: Tracker | None) -> None:
        """To the end. After Ctrl-C, KeyboardInterrupt once the state before the current rollout is saved."""
        config, done = self.config, self.model.num_timesteps
        if done >= config.total_steps:
            return
        checkpoints = Checkpoints(
            config.checkpoint_interval, partial(self.pack, progress=True), self.workspace.save_checkpoint
        )
        title = f"{self.name}: {config.num_agents} robots in {config.num_worlds} worlds, {config.scenario}"
        try:
            with (
                MetricsLogger(self.workspace.run(self.name), done) as files,
                Dashboard(config.whole_steps, done, title=title) as dashboard,
            ):
                callbacks: list[BaseCallback] = [Figures(files, dashboard, tracker), checkpoints]
                callbacks += [Levels(self.curriculum)] if config.curriculum else []
                if config.ent_coef_final is not None:
                    callbacks.append(EntropySchedule(config.ent_coef, config.ent_coef_final, config.whole_steps))
                self.model.learn(
                    config.total_steps - done, callbacks, log_interval=sys.maxsize, reset_num_timesteps=False
                )
        except ValueError as error:
            if "Expected parameter" not in str(error):  # torch's word for a distribution that is not finite
                raise
            raise TrainingDivergedError("the policy is no longer finite", self.model.num_timesteps) from error
        except KeyboardInterrupt:
            try:
                if checkpoints.save_now():
                    say(f"Stopped and saved at {checkpoints.steps:,} steps. The same command goes on from there.")
                else:
                    say("Stopped before there was anything to save.")
            except OSError as error:
                warnings.warn(f"stopped, but not saved ({error}): the checkpoint before stays", stacklevel=2)
            raise

    def finish(self) -> Path:
        """Put the model on the shelf and drop the checkpoint."""
        try:
            path = self.workspace.save_model(self.pack(progress=False), self.name, self.track_id)
        except OSError as error:
            left = (
                self.workspace.checkpoint if self.workspace.checkpoint.exists() else "the start, without a checkpoint"
            )
            raise OSError(
                f"{self.name} is trained but could not be saved ({error}). The same command goes on from {left}"
            ) from error
        self.workspace.drop_checkpoints()
        say(f"Trained {self.model.num_timesteps:,} agent steps: {path}")
        return path

    def film(self, moment: Literal["start", "end"], tracker: Tracker | None) -> None:
        """An episode with the model as it is; at the end, beside that of the start."""
        paths = {kind: self.workspace.videos / f"{self.name}_{kind}.gif" for kind in ("start", "end", "comparison")}
        try:
            write_episode(paths[moment], self.player(), self.config.seed)
            made: list[str] = [moment]
            if moment == "end" and paths["start"].exists():
                side_by_side(paths["comparison"], paths["start"], paths["end"])
                made.append("comparison")
        except (OSError, RuntimeError) as error:
            warnings.warn(f"no video of the {moment}: {error}", stacklevel=2)
            return
        for kind in made:
            say(f"Filmed {paths[kind]}")
            if tracker:
                tracker.log_video(f"video/{kind}", paths[kind])

    def player(self) -> LanePolicy:
        """The model as it is, at the level it began with, so that start and end are seen in the same world."""
        normalizer = self.model.get_vec_normalize_env()
        arrays = normalizer_arrays(normalizer) if normalizer and self.config.normalize_obs else None
        return LanePolicy(self.policy, self.config.task(self.config.difficulty), self.model.num_timesteps, arrays)


def make_model(config: LstmConfig) -> RecurrentPPO:
    """A fresh model with its worlds."""
    settings: dict[str, Any] = {"scenario": config.scenario, "difficulty": config.difficulty, "reward": config.reward}
    settings["preset"] = config.preset_of_worlds
    settings |= {"num_worlds": config.num_worlds, "num_agents": config.num_agents, **config.env_params}
    env: VecEnv = SwarmVecEnv(**settings)
    if config.normalize_obs or config.normalize_reward:
        env = VecNormalize(env, norm_obs=config.normalize_obs, norm_reward=config.normalize_reward, gamma=config.gamma)
    names = (
        "n_steps", "batch_size", "learning_rate", "n_epochs", "gamma", "gae_lambda", "clip_range", "ent_coef", "vf_coef",
        "max_grad_norm", "seed", "device",
    )  # fmt: skip
    given: dict[str, Any] = {name: getattr(config, name) for name in names}
    model = RecurrentPPO(LstmPolicy, env, policy_kwargs={"lstm_hidden_size": config.lstm_hidden_size}, **given)
    model.set_logger(Logger(None, []))  # only collects; SB3's own would leave an empty folder in the temporary one
    return model


def check_same_training(saved: Saved, config: LstmConfig) -> None:
    """ValueError naming what a training cannot change when it is resumed."""
    kept = saved.about.get("config", {})
    lanes = len(saved.arrays["last_episode_starts"])
    now = json.loads(to_json(dataclasses.asdict(config)))
    for name in now:
        if name not in MAY_CHANGE and now[name] != kept.get(name):
            raise ValueError(
                f"{name}={now[name]!r} is not what {saved.path} ({lanes} lanes, {saved.obs_dim} observations) was begun "
                f"with, {kept.get(name)!r}. Give the same options, another --folder, or delete {saved.path.parent}"
            )


def write_episode(path: Path, policy: LanePolicy, seed: int) -> None:
    """Film the first world of a seed's evaluation."""
    env, params = policy.task.make(on_goal="terminate")
    states = film(policy, env, params, episode_key(seed, 0), sampled=True)
    write_film(path, states, params, f"{policy.step:,} steps")


def report(path: Path, episodes: int) -> None:
    """Evaluate a finished model on fresh worlds: a table, and its figures beside the model."""
    policy = load_policy(path)
    env, params = policy.task.make(on_goal="terminate")
    with Console(stderr=True).status("") as status:
        run = player(policy, env, params, episode_keys(env, episodes, 0)[0])
        results = evaluate_episodes(run, env, params, episodes, 0, status.update) | {"checkpoint_step": policy.step}
    Console().print(results_table(results))
    write_atomic(path.with_name(f"{path.stem}-evaluation.json"), to_json(results, indent=2) + "\n")


def train(config: LstmConfig) -> Path:
    """Train to `config.total_steps`, or go on to there from the checkpoint in the folder; the path of the model.

    Raises ValueError for a swarm that cannot be or a checkpoint of other options, CheckpointError for a damaged one,
    OSError where the folder cannot be used, TrainingDivergedError as soon as a loss is not finite, and KeyboardInterrupt,
    once all is saved, after Ctrl-C.
    """
    if config.base_model and not config.base_model.is_file():
        raise FileNotFoundError(f"no base model {config.base_model}")
    for level in range(config.difficulty, (HARDEST if config.curriculum else config.difficulty) + 1):
        config.task(level).make(on_goal="respawn")  # a swarm that cannot be leaves no folders behind
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
