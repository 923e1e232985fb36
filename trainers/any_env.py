"""Train a policy in any environment.

    python -m trainers.any_env --env gymnax:CartPole-v1 --preset cartpole --total-steps 500000
    python -m trainers.any_env --env gymnasium:Acrobot-v1 --num-iterations 50
    python -m trainers.any_env --env my_worlds:make_env

Functional environments in JAX are trained natively: a Swarm, those of gymnax (extra gymnax), and your own that keep the
contract in `trainers/envs/contract.py`. Those of Gymnasium and PettingZoo are trained through Stable-Baselines3 (extra
sb3). The run folder, the hooks and the evaluation are the same. The policy is evaluated at the end, on fresh episodes.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import inspect
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import gymnasium
import jax
import jax.numpy as jnp
import pettingzoo
from jax.sharding import Mesh

from entropy_env import spaces, vector
from entropy_env.env import Swarm
from trainers.algorithms.ppo import PPO
from trainers.algorithms.ppo_options import PRESETS, Hyperparameters
from trainers.envs.contract import BatchedEnv, check_env
from trainers.envs.views import VIEWS, view_of
from trainers.evaluation.episodes import FreshEpisodes, evaluate_in, mean_figures, report
from trainers.evaluation.watching import fresh_key
from trainers.learn.distributions import action_shape, distribution_of
from trainers.policies import load_policy
from trainers.policies.jax import ActorPolicy, ActorSpec
from trainers.policies.load import describe_policy
from trainers.policies.own_spaces import OwnSpaces
from trainers.run.config import check_numbers, with_presets
from trainers.run.devices import DeviceOptions, make_mesh, prepare_jax
from trainers.run.hooks import Hook, Moment
from trainers.run.options import RunOptions, StopOptions
from trainers.run.training import run_command, train_in_folder
from trainers.run.watching import judge

COMMAND = "python -m trainers.any_env"
ALGORITHMS = ("ppo",)
ITERATION = 2048  # environment steps
ADAPTERS = {"gymnax": "trainers.envs.gymnax"}  # by the library of an environment's class
HOSTED = (gymnasium.Env, pettingzoo.ParallelEnv, pettingzoo.AECEnv)  # step one by one, in Python


@with_presets(PRESETS)
@dataclasses.dataclass(frozen=True)
class AnyEnvConfig(Hyperparameters, DeviceOptions, StopOptions, RunOptions):
    """Options of PPO in any environment."""

    NEW: ClassVar[frozenset[str]] = Hyperparameters.NEW | StopOptions.WATCH
    MAY_CHANGE: ClassVar[frozenset[str]] = (
        RunOptions.MAY_CHANGE | StopOptions.WATCH | DeviceOptions.DEVICES | {"episodes"}
    )

    env: str = ""
    """gymnax:NAME or gymnasium:NAME of a registered environment, or module:function of a function that makes one."""
    algorithm: Literal["ppo"] = "ppo"
    """What learns."""
    preset: str | None = None
    """Settings to start from; those given override it. One of: v3, cartpole, pendulum."""
    num_iterations: int | None = None
    """Train for as many iterations of 2,048 environment steps, instead of --total-steps."""
    num_envs: int = 16
    """Number of worlds, all stepped together."""
    num_steps: int = 128
    """Steps of each world between two updates."""
    gamma: float = 0.99
    """Discount per step."""
    learning_rate: float = 3e-4
    """Learning rate of Adam at the start."""
    episodes: int = 256
    """Fresh episodes of the evaluation at the end; 0 for none."""

    def __post_init__(self) -> None:
        if self.algorithm not in ALGORITHMS:
            raise ValueError(f"unknown algorithm {self.algorithm!r}: choose from {', '.join(ALGORITHMS)}")
        counts = ("num_envs", "total_steps", "checkpoint_interval", "keep_checkpoints", "num_steps", "num_minibatches")
        check_numbers(
            self,
            above_0=(*counts, "num_epochs", "learning_rate", "clip", "max_grad_norm"),
            not_negative=("episodes",),
            up_to_1=("gamma", "gae_lambda"),
        )
        if self.num_iterations is not None and self.num_iterations < 1:
            raise ValueError(f"num_iterations={self.num_iterations} must be above 0")
        Hyperparameters.__post_init__(self)
        DeviceOptions.__post_init__(self)
        StopOptions.__post_init__(self)
        RunOptions.__post_init__(self)

    @property
    def slug(self) -> str:
        """What the name of a new run folder begins with."""
        name = self.env.rpartition(":")[2]
        return "".join(letter if letter.isalnum() or letter in "-_" else "-" for letter in name).strip("-") or "run"

    def for_lanes(self, num_envs: int, num_agents: int) -> AnyEnvConfig:
        """Return these options for an environment of so many worlds and agents in each."""
        steps = self.total_steps if self.num_iterations is None else self.num_iterations * ITERATION * num_agents
        return dataclasses.replace(self, num_envs=num_envs, total_steps=steps, num_iterations=None)


def train_policy(
    env_factory: Callable[[], Any] | str, algorithm: str = "ppo", num_iterations: int | None = 100,
    hooks: Sequence[Hook] = (), **options: Any,
) -> Path:  # fmt: skip
    """Train a policy in the environment that a factory makes, evaluate it on fresh episodes, and return the run folder.

    env_factory: returns a Swarm or VectorSwarm, an environment of gymnax or the pair of `gymnax.make`, any batched
    environment that is an `OpenEnv`, or an environment of Gymnasium or PettingZoo. Or a name, as `AnyEnvConfig.env`.
    num_iterations: of 2,048 environment steps each, rounded up to whole updates. hooks: called after every update, after
    those that the options ask for, see `trainers.run.hooks.Moment`. options: of `AnyEnvConfig`, such as run_dir, seed,
    preset, learning_rate, eval_interval, target_return or resume.
    `load_policy` loads the policy, and `evaluation.json` holds its return over the episodes.
    Raises ValueError for a wrong option, or an environment or action space that cannot be trained in, ModuleNotFoundError
    naming the extra to install, and the errors of `trainers.jax_ppo.train`.
    """
    name = (
        env_factory
        if isinstance(env_factory, str)
        else getattr(env_factory, "__qualname__", type(env_factory).__name__)
    )
    known = [field.name for field in dataclasses.fields(AnyEnvConfig)]
    for option in options:
        if option not in known:
            raise ValueError(f"unknown option {option!r}: choose from {', '.join(known)}")
    given: dict[str, Any] = {"env": name, "algorithm": algorithm, "num_iterations": num_iterations, **options}
    return train(AnyEnvConfig(**given), env_factory, hooks)


def train(config: AnyEnvConfig, env_factory: Callable[[], Any] | str | None = None, hooks: Sequence[Hook] = ()) -> Path:
    """Do as `train_policy`, with all options in one place. Without a factory `config.env` names the environment."""
    factory = env_factory if callable(env_factory) else named_factory(env_factory or config.env)
    check_factory(factory, config.env)
    prepare_jax(config)
    made = factory()
    if isinstance(made, HOSTED):
        sb3 = importlib.import_module("trainers.sb3.any_env")
        return sb3.train(factory, made, config, hooks)
    mesh = make_mesh(config.devices)
    env, params, space = open_env(made, config.worlds_on(1 if mesh is None else mesh.size), config.critic)
    ppo, metadata, config = make_ppo(env, params, space, config, mesh)
    if isinstance(env, vector.VectorSwarm):
        env = dataclasses.replace(env, stagger=False)  # else the first episodes would be cut short
    actor = ActorSpec(**metadata["policy"])

    def policy(moment: Moment) -> ActorPolicy:
        return ActorPolicy(moment.state.params["actor"], moment.state.moments, actor, None, moment.step)

    def prepare() -> Callable[[ActorPolicy], dict[str, float]]:
        return functools.partial(mean_figures, FreshEpisodes(env, params, config.seed, fresh_key), config.eval_episodes)

    built_in = judge(config, policy, prepare)
    path = train_in_folder(ppo, params, config, metadata, (*built_in, *hooks), name=config.slug, command=COMMAND)
    if config.episodes and jax.process_index() == 0:
        fresh = FreshEpisodes(env, params, config.seed)
        report(evaluate_in(fresh, load_policy(path), config.episodes, config.seed), path)
    return path


def make_ppo(
    env: BatchedEnv, params: Any, space: Any, config: AnyEnvConfig, mesh: Mesh | None = None
) -> tuple[PPO, dict[str, Any], AnyEnvConfig]:
    """Return the algorithm on an environment, the metadata of its checkpoints, and the options that fit its lanes.

    env: with the worlds of one device. space: of one agent's actions. mesh: see `make_mesh`. Raises ValueError if nothing
    serves the space, or if the environment breaks the contract.
    """
    actions = distribution_of(space, config.action_distribution)
    num_envs, num_agents, obs_dim = check_env(env, params, action_shape(actions), config.critic)
    config = config.for_lanes(num_envs * (1 if mesh is None else mesh.size), num_agents)
    num_updates = -(-config.total_steps // (config.num_envs * num_agents * config.num_steps))
    ppo = PPO(config.alone, env, obs_dim, actions, num_agents, num_updates, mesh)
    actor = ActorSpec.of(obs_dim, actions, **ppo.networks.of_actor)
    own = OwnSpaces.of(env.own_shape, space) if hasattr(env, "own_shape") else None  # others take what networks give
    return ppo, describe_policy(actor, None, own), config


def open_env(made: Any, num_envs: int, critic: str = "local") -> tuple[BatchedEnv, Any, Any]:
    """Return what a factory made as a batched environment, its parameters, and the space of one agent's actions.

    num_envs: the number of worlds, unless it has its own. critic: the kind that worlds of a swarm show more than
    observations, unless they do already. Raises ValueError if it is none.
    """
    made, params = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
    libraries = {base.__module__.split(".")[0] for base in type(made).__mro__}
    for library in libraries & ADAPTERS.keys():
        made = importlib.import_module(ADAPTERS[library]).GymnaxWorlds(made, num_envs)
    if isinstance(made, Swarm):
        made = vector.batch(made, num_envs, stagger=True)
    if isinstance(made, vector.VectorSwarm):
        view = view_of(critic, made.env)
        if view is not None and made.critic != view and isinstance(made.critic, tuple(VIEWS.values())):
            raise ValueError(
                f"critic={critic!r} needs {view}, and these worlds show {made.critic}: leave out their critic"
            )
        made = dataclasses.replace(made, critic=made.critic or view)
        return made, made.env.make_params() if params is None else params, spaces.action_space(made.env.spec)
    missing = [name for name in ("reset", "step", "action_space", "default_params") if not hasattr(made, name)]
    if missing:
        raise ValueError(
            f"{type(made).__name__} cannot be trained in, it has no {', '.join(missing)}: give a Swarm, an environment of "
            "gymnax, Gymnasium or PettingZoo, or one that is a trainers.envs.contract.OpenEnv"
        )
    return made, jax.tree.map(jnp.asarray, made.default_params if params is None else params), made.action_space


def check_factory(factory: Callable[[], Any], name: str) -> None:
    """Raise ValueError for a factory that needs arguments."""
    try:
        signature = inspect.signature(factory)
    except ValueError:  # it tells none
        return
    try:
        signature.bind()
    except TypeError as error:
        raise ValueError(
            f"the environment's factory {name} must need no arguments ({error}): give for example "
            f"lambda: {name}(...), or a name such as 'gymnasium:CartPole-v1'"
        ) from error


def named_factory(name: str) -> Callable[[], Any]:
    """Return the factory that a name stands for, see `AnyEnvConfig.env`. Raises ValueError for a name that is none."""
    library, colon, rest = name.partition(":")
    if not colon or not rest:
        raise ValueError(f"env={name!r} must be gymnax:NAME, gymnasium:NAME or module:function")
    if library == "gymnasium":
        try:
            gymnasium.spec(rest)
        except gymnasium.error.Error as error:
            raise ValueError(f"env={name!r}: {error}") from error
        return functools.partial(gymnasium.make, rest)
    if library in ADAPTERS:
        return functools.partial(importlib.import_module(ADAPTERS[library]).make, rest)
    try:
        return getattr(importlib.import_module(library), rest)
    except (ModuleNotFoundError, AttributeError) as error:
        raise ValueError(f"env={name!r} cannot be imported: {error}") from error


def main(argv: list[str] | None = None) -> int:
    """Run the command line. Returns the exit status."""
    return run_command(AnyEnvConfig, train, argv, command=COMMAND, description=__doc__)


if __name__ == "__main__":
    sys.exit(main())
