"""A training of recurrent PPO: the model, its worlds, and the files it writes."""

from __future__ import annotations

import dataclasses
import sys
import uuid
import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
from rich.console import Console
from sb3_contrib import RecurrentPPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from entropy_env.adapters.sb3 import SwarmVecEnv
from entropy_env.render.video import side_by_side
from entropy_env.task import Task
from entropy_env.types import SwarmParams
from trainers.evaluation.figures import evaluate_policy, results_table
from trainers.evaluation.film import write_film
from trainers.evaluation.play import episode_key, film
from trainers.evaluation.watching import watch
from trainers.policies.lstm import LSTMPolicy
from trainers.run.checkpoint import CheckpointError
from trainers.run.config import check_same_run, save_config
from trainers.run.curriculum import HARDEST, Curriculum
from trainers.run.files import Patience, to_json, write_atomic
from trainers.run.hooks import Hook, Hooks, Moment
from trainers.run.loop import write_summary
from trainers.run.terminal import say
from trainers.sb3.callbacks import (
    BufferMean,
    Checkpoints,
    EndedError,
    EntropySchedule,
    Levels,
    SwarmFigures,
    diverged,
    returns_of,
)
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
from trainers.sb3.options import MAY_CHANGE, LstmConfig
from trainers.sb3.policy import as_policy, load_zip
from trainers.sb3.workspace import NAME, Workspace
from trainers.track.dashboard import Dashboard
from trainers.track.tracking import Tracking


class Training:
    """A model, the worlds it learns in, and the workspace it writes to."""

    def __init__(self, config: LstmConfig, workspace: Workspace, hooks: Sequence[Hook] = ()) -> None:
        """hooks: called after every update, after those that the options ask for."""
        self.config, self.workspace = config, workspace
        self.model = make_model(config)
        self.curriculum = Curriculum(level=config.difficulty)
        self.name, self.track_id = workspace.next_name(), uuid.uuid4().hex[:8]
        task = config.task.but(difficulty=HARDEST) if config.curriculum else config.task
        built_in = watch(
            config, task, lambda _: self.player(), config.seed,
            BufferMean(lambda model: list(model.ep_success_buffer or ())),
            BufferMean(returns_of),
        )  # fmt: skip
        self.hooks = Hooks([*built_in, *hooks])
        self._patience = Patience()
        self.last: Moment | None = None  # after the latest update

    @property
    def task(self) -> Task:
        """The task at the current level of the curriculum."""
        return self.config.task.but(difficulty=self.curriculum.level)

    @property
    def policy(self) -> LstmPolicy:
        return cast(LstmPolicy, self.model.policy)

    @property
    def worlds(self) -> SwarmVecEnv:
        return self.model.get_env().unwrapped  # type: ignore[union-attr, return-value]

    def begin(self) -> None:
        """Go on from the checkpoint if there is one, or else begin with the base model if one is given."""
        saved = self.workspace.find_checkpoint()
        if saved:
            check_same_training(saved, self.config)
            self.resume(saved)
            say(f"Resuming from checkpoint at {self.model.num_timesteps:,} steps")
        elif self.config.base_model:
            self.begin_with(unpack(self.config.base_model))
            say(f"Training {self.name} from {self.config.base_model}")
        else:
            say(f"Training {self.name} from fresh weights")

    def begin_with(self, base: Saved) -> None:
        """Take the weights of another model, and the statistics of its normaliser if both models have one."""
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
        """Restore a training from a checkpoint made by `pack`. Raises CheckpointError if it does not fit."""
        load_state(self.policy, saved)
        prefix = "worlds/"
        try:
            self.policy.optimizer.load_state_dict(saved.weights["policy.optimizer"])
            resume_progress(self.model, saved.arrays)
            self.worlds.restore({n.removeprefix(prefix): a for n, a in saved.arrays.items() if n.startswith(prefix)})
            self.curriculum = Curriculum(**saved.about["curriculum"])
            self.name, self.track_id = saved.about["name"], saved.about["track_id"]
            self.hooks.restore(saved.about.get("hooks", {}))
            if not NAME.fullmatch(self.name):  # it becomes the name of files
                raise ValueError(f"name={self.name!r}")
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise CheckpointError(f"{saved.path} does not hold what a training goes on from ({error!r})") from error

    def pack(self, progress: bool) -> bytes:
        """Return the zip of the model. progress: include everything that the training needs to go on."""
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
            "env": self.task.written(),
            "config": dataclasses.asdict(self.config),
            "curriculum": vars(self.curriculum),
            **({"hooks": self.hooks.states} if progress and self.hooks.states else {}),
        }
        return pack(self.model, about, arrays)

    def track(self) -> Tracking:
        """Begin or go on to track the training, in its folder below `runs/`."""
        config, folder = self.config, self.workspace.run(self.name)
        save_config(folder / "config.yaml", config)
        id = f"{self.name}-{self.track_id}"
        return Tracking(folder, config.trackers, config.track_project, self.model.num_timesteps, id)

    def learn(self, tracking: Tracking) -> None:
        """Train to the end, or until a hook ends it.

        After Ctrl-C it saves the state before the current rollout, and raises KeyboardInterrupt.
        """
        config, done = self.config, self.model.num_timesteps
        if done >= config.total_steps:
            return
        checkpoints = Checkpoints(
            config.checkpoint_interval, partial(self.pack, progress=True), self.workspace.save_checkpoint
        )
        folder = self.workspace.run(self.name)

        def after(moment: Moment, failure: BaseException | None) -> None:
            self.last = moment
            tracking.converged = moment.stopped is not None  # a hook found that the training is done
            if moment.kept_as:
                self.keep(moment.kept_as)
            if failure is not None:
                checkpoints.before_rollout()
                checkpoints.save_now()

        title = f"{self.name}: {config.num_agents} robots in {config.num_worlds} worlds, {config.scenario}"
        try:
            with Dashboard(config.whole_steps, done, title=title) as dashboard:
                callbacks: list[BaseCallback] = [
                    SwarmFigures(tracking, dashboard, self.hooks, folder, after, config.verbose),
                    checkpoints,
                ]
                callbacks += [Levels(self.curriculum)] if config.curriculum else []
                if config.ent_coef_final is not None:
                    callbacks.append(EntropySchedule(config.ent_coef, config.ent_coef_final, config.whole_steps))
                self.model.learn(
                    config.total_steps - done, callbacks, log_interval=sys.maxsize, reset_num_timesteps=False
                )
        except EndedError:
            pass
        except ValueError as error:
            if "Expected parameter" not in str(error):  # torch's message if a distribution is not finite
                raise
            raise diverged("the policy is no longer finite", self.model.num_timesteps) from error
        except KeyboardInterrupt:
            try:
                if checkpoints.save_now():
                    say(f"Stopped and saved at {checkpoints.steps:,} steps. The same command goes on from there.")
                else:
                    say("Stopped before there was anything to save.")
            except OSError as error:
                warnings.warn(f"stopped, but not saved ({error}): the checkpoint before stays", stacklevel=2)
            raise

    def keep(self, kind: str) -> None:
        """Write the model of now to `models/NAME-KIND.zip`. A full disk costs a warning."""
        path = self.workspace.models / f"{self.name}-{kind}.zip"
        write = partial(write_atomic, path, self.pack(progress=False))
        self._patience.try_to(write, path.name, "training goes on")

    def finish(self) -> Path:
        """Write the finished model to `models/`, and delete the checkpoint. Returns the path of the model."""
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
        why = ""
        if self.last is not None:
            write_summary(self.workspace.run(self.name), self.last)
            why = f" and stopped: {self.last.stopped}" if self.last.stopped else ""
        say(f"Trained {self.model.num_timesteps:,} agent steps{why}: {path}")
        return path

    def film(self, moment: Literal["start", "end"]) -> None:
        """Film an episode with the current model. At the end, also put the films of start and end side by side."""
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

    def player(self) -> LSTMPolicy:
        """Return the current model as a policy, with the task at its first level: start and end show the same world."""
        normalizer = self.model.get_vec_normalize_env()
        arrays = normalizer_arrays(normalizer) if normalizer and self.config.normalize_obs else None
        return as_policy(self.policy, self.config.task, self.model.num_timesteps, arrays)


def make_model(config: LstmConfig) -> RecurrentPPO:
    """Make a new model with its worlds."""
    env: VecEnv = SwarmVecEnv(config.num_worlds, **config.task.settings)  # type: ignore[arg-type]
    if config.normalize_obs or config.normalize_reward:
        env = VecNormalize(env, norm_obs=config.normalize_obs, norm_reward=config.normalize_reward, gamma=config.gamma)
    names = (
        "n_steps", "batch_size", "learning_rate", "n_epochs", "gamma", "gae_lambda", "clip_range", "ent_coef", "vf_coef",
        "max_grad_norm", "seed", "device",
    )  # fmt: skip
    given: dict[str, Any] = {name: getattr(config, name) for name in names}
    model = RecurrentPPO(LstmPolicy, env, policy_kwargs={"lstm_hidden_size": config.lstm_hidden_size}, **given)
    model.set_logger(Logger(None, []))  # writes nothing; SB3's default would leave an empty temporary folder
    return model


def check_same_training(saved: Saved, config: LstmConfig) -> None:
    """Raise ValueError if an option differs that must not change when a training is resumed."""
    run = f"{saved.path} ({len(saved.arrays['last_episode_starts'])} lanes, {saved.obs_dim} observations)"
    advice = f". Give the same options, another --folder, or delete {saved.path.parent}"
    check_same_run(saved.about.get("config", {}), config, MAY_CHANGE, run, advice)


def write_episode(path: Path, policy: LSTMPolicy, seed: int) -> None:
    """Film the policy in world 0 of the evaluation with this seed."""
    env, params = policy.task.make(on_goal="terminate")
    time_steps = film(policy, env, params, episode_key(seed, 0), sampled=True)
    write_film(path, time_steps, env.spec, params, f"{policy.step:,} steps")


def report(path: Path, episodes: int) -> None:
    """Evaluate a finished model on fresh worlds. Prints a table, and writes the figures to a file beside the model."""
    policy = load_zip(path)
    env, params = policy.task.make(on_goal="terminate")
    with Console(stderr=True).status("") as status:
        results = evaluate_policy(policy, env, params, episodes, 0, status.update)
    Console().print(results_table(results))
    write_atomic(path.with_name(f"{path.stem}-evaluation.json"), to_json(results, indent=2) + "\n")
