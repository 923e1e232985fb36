"""Train a swarm with PPO. By default all agents share one feed-forward network.

    python -m trainers.jax_ppo --scenario rooms --num-agents 10 --total-steps 20000000
    python -m trainers.jax_ppo --scenario maze --network gru --shared-trunk --sequence-length 16

The algorithm is in `trainers/algorithms/ppo.py`.
"""

from __future__ import annotations

import dataclasses
import functools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import jax

from entropy_env import vector
from entropy_env.checks import NEVER
from entropy_env.task import Task, lasting_on_goal
from entropy_env.types import OnGoal
from trainers.algorithms.ppo import PPO
from trainers.algorithms.ppo_options import PRESETS, STEERABLE, Hyperparameters
from trainers.algorithms.ppo_state import Runner
from trainers.algorithms.speech_options import SpeechOptions
from trainers.curriculum.learnability import LearnableWorlds, tell_learnability
from trainers.curriculum.promotion import Course, Promotion
from trainers.curriculum.stages import Plan, Whole, read_plan
from trainers.envs.contract import BatchedEnv
from trainers.envs.views import view_of
from trainers.evaluation.watching import watch
from trainers.learn.distributions import GAUSSIANS
from trainers.learn.speech import Talking
from trainers.policies.continued import begin_from
from trainers.policies.jax import ActorPolicy, ActorSpec
from trainers.policies.load import describe_policy
from trainers.run.config import check_numbers, with_presets
from trainers.run.devices import (
    DeviceOptions,
    free_memory,
    largest_batch,
    make_mesh,
    prepare_jax,
    tell,
    update_memory,
)
from trainers.run.hooks import Hook, Moment
from trainers.run.options import RunOptions, WatchOptions, WorldOptions
from trainers.run.terminal import say
from trainers.run.training import run_command, train_in_folder

COMMAND = "python -m trainers.jax_ppo"
MOTORS = 2  # numbers of an action that are not words
SWARMS: dict[str, dict[str, Any]] = {  # settings by name that need a swarm, beside those of PPO
    # For worlds where robots must make detours: what they remember, learnt over 64 steps, with much noise at first.
    "memory": {
        "network": "gru",
        "critic": "privileged",
        "normalize_value": True,
        "num_envs": 64,
        "num_steps": 64,
        "entropy_coefficient": 0.03,
        "entropy_coefficient_final": 0.0,
        "env_params": {"reward_geodesic": 1.0, "reward_progress": 0.0},
    },
}


@with_presets(PRESETS | SWARMS)
@dataclasses.dataclass(frozen=True)
class PPOConfig(Hyperparameters, SpeechOptions, DeviceOptions, WatchOptions, RunOptions, WorldOptions):
    """Options of PPO."""

    NEW: ClassVar[frozenset[str]] = (
        WorldOptions.NEW
        | DeviceOptions.DEVICES
        | Hyperparameters.NEW
        | SpeechOptions.SPEECH
        | {"preset", "auto_batch", "on_goal", "learnable_share", "learnable_levels", "init_from"}
    )
    MAY_CHANGE: ClassVar[frozenset[str]] = (
        RunOptions.MAY_CHANGE | WatchOptions.WATCH | DeviceOptions.DEVICES | {"auto_batch"}
    )

    auto_batch: bool = False
    """Take as many worlds as fit into the memory, instead of --num-envs."""
    preset: str | None = None
    """Settings to start from; those given override it. memory: for detours, as in maze and rooms. v3: those of the V3
    blueprint. cartpole and pendulum: for these in trainers.any_env."""
    on_goal: Literal["respawn", "terminate"] | None = None
    """What robots do at their goals in training: respawn and go on, or leave until the world ends. By default they respawn,
    where the scenario allows it."""
    init_from: Path | None = None
    """Folder of a run whose networks, and statistics of observations and returns, this one begins with."""
    curriculum: str | None = None
    """YAML file with the stages of a curriculum, or default: the four levels of the scenario curriculum."""
    learnable_share: float = 0.0
    """Share of the layouts that are levels played before, those of which about half of the robots arrived; 0.5 is a good
    one. The others are new, and figures are theirs."""
    learnable_levels: int = 1024
    """Levels that each device remembers for that."""

    def __post_init__(self) -> None:
        counts = ("num_agents", "num_rays", "num_envs", "total_steps", "checkpoint_interval", "num_steps", "num_minibatches",
                  "keep_checkpoints", "learnable_levels")  # fmt: skip
        check_numbers(
            self,
            above_0=(*counts, "num_epochs", "learning_rate", "clip", "max_grad_norm"),
            up_to_1=("gamma", "gae_lambda"),
        )
        Hyperparameters.__post_init__(self)
        DeviceOptions.__post_init__(self)
        WatchOptions.__post_init__(self)
        RunOptions.__post_init__(self)
        self.check_speech()
        self._check_learnable()

    def _check_learnable(self) -> None:
        """Raise ValueError if levels cannot be judged by how learnable they are."""
        share = f"learnable_share={self.learnable_share}"
        if not 0 <= self.learnable_share < 1:
            raise ValueError(f"{share} must be at least 0 and below 1")
        if self.learnable_share and self.curriculum:
            raise ValueError(f"{share} cannot be combined with curriculum={self.curriculum!r}: leave out one of them")
        if self.learnable_share and self.num_agents < 2:
            raise ValueError(
                f"{share} needs 2 robots or more, not num_agents={self.num_agents}: a level is judged by the share that arrives"
            )

    @property
    def settings(self) -> dict[str, Any]:
        """See `WorldOptions`. A privileged critic must know the shortest ways."""
        return super().settings | ({"geodesic": True} if self.critic == "privileged" else {})

    @functools.cached_property
    def plan(self) -> Plan | None:
        """The curriculum. Raises ConfigError if its file is wrong, or a stage cannot be had."""
        fixed = {field.name for field in dataclasses.fields(self)} - {"scenario", "difficulty", "reward", *STEERABLE}
        check = functools.partial(dataclasses.replace, self, curriculum=None)
        return read_plan(self.curriculum, Whole(self.task, STEERABLE, fixed, check)) if self.curriculum else None

    @property
    def goal(self) -> Task:
        """The worlds to evaluate in: those of the last stage, if there are stages."""
        plan = self.plan
        return plan.stages[-1].task if plan else self.task

    @property
    def ending(self) -> OnGoal:
        """What robots do at their goals."""
        return self.on_goal or lasting_on_goal(self.goal.scenario)

    @property
    def steps_per_update(self) -> int:
        """The number of agent steps per update, over all lanes."""
        return self.num_envs * self.num_agents * self.num_steps

    @property
    def num_updates(self) -> int:
        """The number of updates in the whole run."""
        return -(-self.total_steps // self.steps_per_update)


@dataclasses.dataclass(frozen=True)
class Continued(PPO):
    """The algorithm, with networks and statistics at the start that another run has learnt."""

    source: str = ""  # its folder
    channel: str = "broadcast"  # of the words, as in `SwarmSpec`

    def init(self, key: jax.Array, inputs: Any) -> Runner:  # type: ignore[override]
        """Return a runner before its first update. Raises the errors of `begin_from`."""
        own = ActorSpec.of(self.obs_dim, self.actions, **self.networks.of_actor)
        return begin_from(self.source, super().init(key, inputs), own, self.channel)


def make_ppo(config: PPOConfig) -> tuple[PPO, Any, dict[str, Any]]:
    """Return the algorithm on its swarm, its inputs, and the metadata of its checkpoints.

    Raises ValueError for an impossible swarm, or if the worlds do not divide over the devices.
    """
    mesh = make_mesh(config.devices)
    worlds, inputs = make_worlds(config, 1 if mesh is None else mesh.size)
    env, params = config.goal.resolve(on_goal=config.ending)
    speech, inbox = config.speech_in(env, params)
    motors = GAUSSIANS[config.action_distribution](MOTORS)
    actions = motors if speech is None else Talking(motors, worded=not speech.differentiable)
    about = worlds, env.spec.obs_dim, actions, config.num_agents, config.num_updates, mesh, speech, inbox
    ppo = (
        PPO(config.alone, *about)
        if config.init_from is None or config.resume  # which begins with its own
        else Continued(config.alone, *about, str(config.init_from), env.spec.comm_channel)
    )
    actor = ActorSpec.of(env.spec.obs_dim, ppo.actions, **ppo.networks.of_actor)
    return ppo, inputs, describe_policy(actor, config.goal)


def make_worlds(config: PPOConfig, num_devices: int = 1) -> tuple[BatchedEnv, Any]:
    """Return the worlds to train in, on one of the devices, and the learner's inputs at the start."""
    course = make_course(config, num_devices)
    if course:
        return course.worlds, course.inputs(1)
    env, env_params = config.task.make(on_goal=config.ending)
    num_envs, critic = config.worlds_on(num_devices), view_of(config.critic, env)
    if not config.learnable_share:
        return vector.batch(env, num_envs, stagger=True, critic=critic), env_params
    if env_params.max_steps == NEVER:
        raise ValueError("max_steps='never' has no end, so no level would be judged: leave out learnable_share")
    share, num_levels = config.learnable_share, config.learnable_levels
    return LearnableWorlds(env, num_envs, stagger=True, critic=critic, share=share, num_levels=num_levels), env_params


def make_course(config: PPOConfig, num_devices: int = 1) -> Course | None:
    """Return the curriculum for these worlds and this learner, if there is one."""
    plan, options = config.plan, {name: getattr(config, name) for name in STEERABLE}
    worlds = config.num_envs, options, config.worlds_on(num_devices), config.ending, config.critic
    return Course(plan, *worlds) if plan else None


def fill_memory(config: PPOConfig) -> PPOConfig:
    """Return the options with as many worlds as fit into the memory, but no more than the whole run is one update of."""
    mesh = make_mesh(config.devices)
    unit = config.num_minibatches * config.accumulate * (1 if mesh is None else mesh.size)

    def memory_of(num_envs: int) -> int:
        ppo, env_params, _ = make_ppo(dataclasses.replace(config, num_envs=num_envs))
        return update_memory(ppo, env_params)

    most = config.total_steps // (config.num_agents * config.num_steps)
    num_envs = tell(largest_batch(memory_of, free_memory(), unit, most))  # the same in all processes
    say(f"{num_envs:,} worlds, as many as fit into the memory or fill one update")
    return dataclasses.replace(config, num_envs=num_envs)


def train(config: PPOConfig, hooks: Sequence[Hook] = ()) -> Path:
    """Train to `config.total_steps` and return the run folder. Turns on JAX's persistent compilation cache.

    hooks: called after every update and after the hooks that the options ask for, see `trainers.run.hooks.Moment`.
    Raises ValueError for an impossible swarm, or for a resumed run with other options, OSError if the run folder cannot
    be used, CheckpointError if it does not hold this run, ModuleNotFoundError for a tracker that is not installed,
    TrainingDivergedError as soon as a loss or the weights are not finite, and the errors of hooks once the run is saved.
    After Ctrl-C it saves the run and raises KeyboardInterrupt.
    """
    prepare_jax(config)
    if config.auto_batch and not config.resume:
        config = fill_memory(config)
    ppo, inputs, metadata = make_ppo(config)
    actor = ActorSpec(**metadata["policy"])

    def policy(moment: Moment) -> Any:
        return ActorPolicy(moment.state.params["actor"], moment.state.moments, actor, goal, moment.step)

    course, goal = make_course(config), config.goal
    promotion: list[Hook] = [Promotion(course, config.num_envs * config.num_agents)] if course else []
    learnable: list[Hook] = [tell_learnability] if config.learnable_share else []
    built_in = (count_layout_reuses, *learnable, *promotion, *watch(config, goal, policy, config.seed))
    return train_in_folder(
        ppo, inputs, config, metadata, (*built_in, *hooks),
        name=config.scenario, command=COMMAND, evaluate="python -m trainers.evaluate",
    )  # fmt: skip


def count_layout_reuses(moment: Moment) -> None:
    """Add `env/layout_reuses`: the resets that used a layout again, because a new one was not drawn in time."""
    moment.metrics["env/layout_reuses"] = int(moment.state.env_state.layout_reuses.sum())


def main(argv: list[str] | None = None) -> int:
    """Run the command line. Returns the exit status."""
    return run_command(PPOConfig, train, argv, command=COMMAND, description=__doc__)


if __name__ == "__main__":
    sys.exit(main())
