"""Train a swarm with feed-forward PPO. All agents share one network.

    python -m trainers.jax_ppo --scenario rooms --num-agents 10 --total-steps 20000000

The algorithm is in `trainers/algorithms/ppo.py`.
"""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from entropy_env import vector
from entropy_env.task import Task
from trainers.algorithms.ppo import PPO, STEERABLE, Hyperparameters
from trainers.curriculum.promotion import Course, Promotion
from trainers.curriculum.stages import Plan, read_plan
from trainers.evaluation.watching import watch
from trainers.learn.rollout import BatchedEnv
from trainers.policies.jax import ActorPolicy, ActorSpec
from trainers.policies.load import describe_policy
from trainers.run.checkpoint import CheckpointError
from trainers.run.compilation import cache_compilations
from trainers.run.config import check_numbers, parse_config
from trainers.run.folder import begin_run_folder, prepare_run_folder
from trainers.run.hooks import Hook, Moment
from trainers.run.loop import TrainingDivergedError, fit
from trainers.run.options import RunOptions, WatchOptions, WorldOptions
from trainers.run.terminal import say, warnings_as_lines


@dataclasses.dataclass(frozen=True)
class PPOConfig(Hyperparameters, WatchOptions, RunOptions, WorldOptions):
    """Options of PPO."""

    curriculum: str | None = None
    """YAML file with the stages of a curriculum, or default: the four levels of the scenario curriculum."""

    MAY_CHANGE: ClassVar[frozenset[str]] = RunOptions.MAY_CHANGE | WatchOptions.WATCH

    def __post_init__(self) -> None:
        object.__setattr__(self, "hidden_sizes", tuple(self.hidden_sizes))
        counts = ("num_agents", "num_envs", "total_steps", "checkpoint_interval", "num_steps", "num_minibatches",
                  "keep_checkpoints")  # fmt: skip
        check_numbers(
            self,
            above_0=(*counts, "num_epochs", "learning_rate", "clip", "max_grad_norm"),
            up_to_1=("gamma", "gae_lambda"),
        )
        Hyperparameters.__post_init__(self)
        WatchOptions.__post_init__(self)
        RunOptions.__post_init__(self)

    @property
    def plan(self) -> Plan | None:
        """The curriculum. Raises ConfigError if its file is wrong, or a stage cannot be had."""
        fixed = {field.name for field in dataclasses.fields(self)} - {"scenario", "difficulty", "reward", *STEERABLE}
        return read_plan(self.curriculum, self.task, STEERABLE, fixed) if self.curriculum else None

    @property
    def goal(self) -> Task:
        """The worlds to evaluate in: those of the last stage, if there are stages."""
        plan = self.plan
        return plan.stages[-1].task if plan else self.task

    @property
    def steps_per_update(self) -> int:
        """The number of agent steps per update, over all lanes."""
        return self.num_envs * self.num_agents * self.num_steps

    @property
    def num_updates(self) -> int:
        """The number of updates in the whole run."""
        return -(-self.total_steps // self.steps_per_update)


def make_ppo(config: PPOConfig) -> tuple[PPO, Any, dict[str, Any]]:
    """Return the algorithm on its swarm, its inputs, and the metadata of its checkpoints."""
    worlds, inputs = make_worlds(config)
    env, _ = config.goal.resolve(on_goal="respawn")
    ppo = PPO(
        config,
        worlds,
        env.spec.obs_dim,
        env.spec.action_dim,
        config.num_agents,
        config.num_updates,
    )
    actor = ActorSpec(env.spec.obs_dim, env.spec.action_dim, config.hidden_sizes, config.activation)
    return ppo, inputs, describe_policy(actor, config.goal)


def make_worlds(config: PPOConfig) -> tuple[BatchedEnv, Any]:
    """Return the worlds to train in, and the learner's inputs at the start."""
    course = make_course(config)
    if course:
        return course.worlds, course.inputs(1)
    env, env_params = config.task.make(on_goal="respawn")
    return vector.batch(env, config.num_envs, stagger=True), env_params


def make_course(config: PPOConfig) -> Course | None:
    """Return the curriculum for these worlds and this learner, if there is one."""
    plan = config.plan
    return Course(plan, config.num_envs, {name: getattr(config, name) for name in STEERABLE}) if plan else None


def train(config: PPOConfig, hooks: Sequence[Hook] = ()) -> Path:
    """Train to `config.total_steps` and return the run folder. Turns on JAX's persistent compilation cache.

    hooks: called after every update and after the hooks that the options ask for, see `trainers.run.hooks.Moment`.
    Raises ValueError for an impossible swarm, or for a resumed run with other options, OSError if the run folder cannot
    be used, CheckpointError if it does not hold this run, TrainingDivergedError as soon as a loss or the weights are not
    finite, and the errors of hooks once the run is saved. After Ctrl-C it saves the run and raises KeyboardInterrupt.
    """
    if config.deterministic:
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_gpu_deterministic_ops=true"
    cache_compilations()
    ppo, inputs, metadata = make_ppo(config)
    actor = ActorSpec(**metadata["policy"])

    def policy(moment: Moment) -> Any:
        return ActorPolicy(moment.state.params["actor"], moment.state.moments, actor, goal, moment.step)

    course, goal = make_course(config), config.goal
    promotion: list[Hook] = [Promotion(course, config.num_envs * config.num_agents)] if course else []
    built_in = (count_layout_reuses, *promotion, *watch(config, goal, policy, config.seed))
    opened = prepare_run_folder(config.run_dir, config.resume) if config.run_dir else begin_run_folder(config.scenario)
    with opened as folder:
        last = fit(ppo, inputs, config, folder, metadata, (*built_in, *hooks))
        path = folder.path
    if not last.metrics:  # nothing was left to train
        return path
    if last.interrupted:
        say(f"Stopped and saved. Continue with: python -m trainers.jax_ppo --resume --run-dir {path}")
        raise KeyboardInterrupt
    why = f" and stopped: {last.stopped}" if last.stopped else ""
    say(f"Trained {last.step:,} agent steps{why}. Evaluate with: python -m trainers.evaluate {path}")
    return path


def count_layout_reuses(moment: Moment) -> None:
    """Add `env/layout_reuses`: the resets that used a layout again, because a new one was not drawn in time."""
    moment.metrics["env/layout_reuses"] = int(moment.state.env_state.layout_reuses.sum())


def main(argv: list[str] | None = None) -> int:
    """Run the command line. Returns the exit status."""
    argv = sys.argv[1:] if argv is None else argv
    parse = partial(parse_config, PPOConfig, prog="python -m trainers.jax_ppo", description=__doc__)
    config = parse(argv)
    if config.resume and config.run_dir:
        if any(flag.startswith("--config") for flag in argv):
            say("error: a resumed run keeps its own options: leave out --config", sys.stderr)
            return 2
        kept = config.run_dir / "config.yaml"
        config = parse(["--config", str(kept), *argv]) if kept.exists() else config
    try:
        with warnings_as_lines():
            train(config)
    except KeyboardInterrupt:
        return 130
    except (ValueError, OSError, CheckpointError, TrainingDivergedError) as error:
        say(f"error: {error}", sys.stderr)
        return 1 if isinstance(error, TrainingDivergedError) else 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
