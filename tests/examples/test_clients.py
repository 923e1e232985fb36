"""Examples of other libraries as clients of the PettingZoo environment, and what they say of those libraries' limits."""

import importlib.util
import os
import runpy
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from helpers.commands import ROOT, check_command, split_commands

from entropy_env import SwarmSpec, swarm_v0

NEEDS = {
    "supersuit_ppo": ("supersuit", "stable_baselines3"),
    "torchrl_rollout": ("torchrl", "tensordict"),
    "rllib_ppo": ("ray",),
}


def skip_without(*modules):
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"{' and '.join(missing)} not installed")


def run_python(*words):
    """The finished process, which had little to compute and one thread to do it with."""
    quiet = {"OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, *words]
    return subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, env=os.environ | quiet, timeout=180, check=False
    )


def run_example(name, flags):
    """What an example prints."""
    skip_without(*NEEDS[name])
    result = run_python(f"examples/{name}.py", *flags.split())
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_supersuit_ppo_learns_and_sums_up_its_episodes():
    flags = "--num-agents 3 --num-worlds 2 --rollout 40 --max-steps 20 --total-steps 480"
    printed = run_example("supersuit_ppo", flags)
    assert "6 lanes, observations (36,), actions (2,)" in printed
    assert "ep_rew_mean" in printed
    assert "mean return of the last 24 episodes of a robot" in printed


def test_torchrl_rollout_plays_to_the_time_limit():
    printed = run_example("torchrl_rollout", "--num-agents 3 --max-steps 20")
    assert "{'agent': 3} robots by group" in printed
    assert "20 steps, 0 of 3 arrived, 60 of 60 actions counted" in printed


def test_torchrl_rollout_masks_those_who_have_arrived():
    last = run_example("torchrl_rollout", "--num-agents 3 --policy steer").splitlines()[-1]
    assert "3 of 3 arrived" in last
    counted, actions = (int(word) for word in last.split(", ")[2].split() if word.isdigit())
    steps = int(last.split()[0])
    assert steps < counted < actions == 3 * steps


def test_rllib_ppo_learns_with_one_policy_for_all():
    printed = run_example("rllib_ppo", "--num-agents 3 --max-steps 20 --batch 100")
    assert [line.split(" steps, mean return of a robot")[0] for line in printed.splitlines()[-2:]] == [
        "iteration 0: 100",
        "iteration 1: 200",
    ]


@pytest.mark.parametrize(("name", "module"), [(name, module) for name, modules in NEEDS.items() for module in modules])
def test_an_example_says_what_it_needs(name, module, monkeypatch, capsys):
    script = str(ROOT / "examples" / f"{name}.py")
    monkeypatch.setattr(sys, "argv", [script])
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(SystemExit, match="2"):
        runpy.run_path(script, run_name="__main__")
    printed = capsys.readouterr()
    assert printed.out == ""
    (said,) = printed.err.splitlines()
    assert said.startswith("this example needs ")
    for command in split_commands(said.split("): ")[1]):
        assert command[:2] == ["pip", "install"]
        check_command(command)


def wrap(num_worlds=2, num_cpus=0, world=None, **settings):
    """Worlds of two robots, as Stable-Baselines3 sees them."""
    skip_without("supersuit", "stable_baselines3")
    import supersuit

    world = world or swarm_v0.parallel_env(num_agents=2, **({"on_goal": "respawn", "max_steps": 4} | settings))
    lanes = supersuit.pettingzoo_env_to_vec_env_v1(world)
    return supersuit.concat_vec_envs_v1(lanes, num_worlds, num_cpus=num_cpus, base_class="stable_baselines3")


def make_ppo(envs, **settings):
    from stable_baselines3 import PPO

    return PPO("MlpPolicy", envs, n_steps=8, batch_size=16, n_epochs=1, device="cpu", **settings)


def steer(obs):
    """(lanes, 2) motors that turn towards the goal and drive once it is ahead."""
    ahead, left = obs[:, SwarmSpec().slice("goal")].T
    bearing = np.arctan2(left, ahead)
    drive, turn = 0.6 * np.maximum(np.cos(bearing), 0.0), 0.25 * bearing
    return np.stack([drive - turn, drive + turn], axis=-1).astype(np.float32)


@pytest.mark.parametrize(
    "call",
    [
        lambda envs: make_ppo(envs, seed=0),
        lambda envs: envs.seed(0),
        lambda envs: envs.reset(seed=0),
        lambda envs: envs.get_attr("render_mode"),
        lambda envs: envs.set_attr("render_mode", None),
        lambda envs: envs.env_method("set_difficulty", 2),
    ],
    ids=["PPO(seed=0)", "seed", "reset(seed=0)", "get_attr", "set_attr", "env_method"],
)
def test_supersuit_still_has_no(call):
    envs = wrap()
    envs.reset()
    with pytest.raises(AttributeError, match="ConcatVecEnv"):
        call(envs)


def test_a_run_through_supersuit_is_repeated_by_hand():
    def learn(seed):
        worlds = wrap()
        from stable_baselines3.common.utils import set_random_seed

        set_random_seed(seed)
        worlds.venv.reset(seed=seed)
        model = make_ppo(worlds).learn(64)
        return np.concatenate([weights.detach().numpy().ravel() for weights in model.policy.parameters()])

    once, again, otherwise = learn(0), learn(0), learn(1)
    assert (once == again).all()
    assert (once != otherwise).any()


@pytest.mark.parametrize("was_reset", [True, False])
def test_worlds_of_supersuit_still_are_copies_of_one(was_reset):
    world = swarm_v0.parallel_env(num_agents=2, on_goal="respawn", max_steps=4)
    if was_reset:
        world.reset()
    worlds = wrap(world=world)
    for _ in range(2):
        first, second = np.split(worlds.reset(), 2)
        assert (first == second).all() == was_reset


def test_supersuit_still_takes_the_time_limit_for_a_failure():
    envs = wrap()
    envs.reset()
    for _ in range(4):
        _obs, _reward, dones, infos = envs.step(np.zeros((4, 2), np.float32))
    assert dones.all()
    for info in infos:
        assert "terminal_observation" in info
        assert "TimeLimit.truncated" not in info


def test_supersuit_still_fails_when_an_agent_leaves_alone():
    envs = wrap(on_goal="terminate", max_steps=400)
    obs = envs.reset()
    with pytest.raises(AssertionError, match="varying numbers of active agents"):
        for _ in range(400):
            obs, *_ = envs.step(steer(obs))


def test_black_death_of_supersuit_still_tells_of_one_end_too_late():
    skip_without("supersuit", "stable_baselines3")
    import supersuit

    envs = wrap(1, world=supersuit.black_death_v3(swarm_v0.parallel_env(num_agents=2, max_steps=4)))
    envs.reset()
    ends = [envs.step(np.zeros((2, 2), np.float32))[2].tolist() for _ in range(5)]
    assert ends == [[False, False]] * 4 + [[True, True]]


def test_supersuit_still_counts_no_episode():
    model = make_ppo(wrap()).learn(64)
    assert len(model.ep_info_buffer) == 0


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_of_supersuit_still_start_as_multiprocessing_does(method):
    skip_without("supersuit", "stable_baselines3")
    code = f"""
        import multiprocessing, supersuit
        from entropy_env import SwarmSpec, swarm_v0

        multiprocessing.set_start_method({method!r})
        world = swarm_v0.parallel_env(num_agents=2, on_goal="respawn", max_steps=4)
        world.reset()
        lanes = supersuit.pettingzoo_env_to_vec_env_v1(swarm_v0.parallel_env(num_agents=2, on_goal="respawn"))
        worlds = supersuit.concat_vec_envs_v1(lanes, 2, num_cpus=2, base_class="stable_baselines3")
        print(worlds.reset().shape)
        worlds.close()
    """
    result = run_python("-c", textwrap.dedent(code))
    if method == "spawn":
        assert result.returncode == 0, result.stderr
        assert result.stdout == "(4, 36)\n"
    else:
        assert result.returncode == 1
        assert "RuntimeError: this process was forked from one that had already used JAX" in result.stderr


def test_one_cpu_of_supersuit_still_is_this_process():
    assert type(wrap(num_cpus=1).venv) is type(wrap(num_cpus=0).venv)


@pytest.mark.filterwarnings("ignore:PettingZoo in TorchRL is tested:UserWarning")
def test_torchrl_acts_for_those_who_have_left_as_well():
    skip_without("torchrl", "tensordict")
    import torch
    from tensordict.nn import TensorDictModule
    from torchrl.envs import PettingZooWrapper

    act = TensorDictModule(
        lambda obs: torch.from_numpy(steer(obs.numpy())), [("agent", "observation")], [("agent", "action")]
    )
    env = PettingZooWrapper(swarm_v0.parallel_env(num_agents=3), use_mask=True, done_on_any=False, seed=0)
    mask = env.rollout(200, act)["agent", "mask"]
    assert mask[0].all()
    assert not mask[-1].all()


def test_skrl_still_refuses_its_own_defaults():
    skip_without("skrl")
    from skrl.multi_agents.torch.mappo import MAPPO_CFG

    with pytest.raises(ValueError, match="do not match possible agents"):
        MAPPO_CFG().expand(possible_agents=["agent_0", "agent_1"])


def make_turns():
    """Two robots in turns, as Tianshou sees them."""
    skip_without("tianshou")
    from tianshou.env.pettingzoo_env import PettingZooEnv

    return PettingZooEnv(swarm_v0.env(num_agents=2, on_goal="respawn"))


def test_tianshou_still_pays_only_the_last_of_a_round():
    env = make_turns()
    env.reset(seed=0)
    paid = [list(env.step(np.ones(2, np.float32))[1]) for _ in range(6)]
    assert not np.any(paid[::2])
    assert np.all(paid[1::2])


def test_tianshou_still_gives_many_agents_no_continuous_actions():
    env = make_turns()
    import torch
    from tianshou.algorithm.modelfree.reinforce import ProbabilisticActorPolicy
    from tianshou.algorithm.multiagent.marl import MultiAgentPolicy
    from tianshou.data import Batch
    from tianshou.utils.net.common import Net
    from tianshou.utils.net.continuous import ContinuousActorProbabilistic

    actor = ContinuousActorProbabilistic(preprocess_net=Net(state_shape=(36,), hidden_sizes=[8]), action_shape=(2,))
    policy = ProbabilisticActorPolicy(actor=actor, dist_fn=torch.distributions.Normal, action_space=env.action_space)
    swarm = MultiAgentPolicy(dict.fromkeys(env.agents, policy))
    with pytest.raises(AttributeError, match="obs_next"):
        swarm(Batch(obs=[env.reset()[0]], info=[{}]))


def test_rllib_still_misses_an_end_of_both_kinds():
    skip_without("ray")
    from ray.rllib.env.wrappers.pettingzoo_env import ParallelPettingZooEnv

    def play(max_steps):
        """The step of the first arrival, or of the end, and what was said of it."""
        env = ParallelPettingZooEnv(swarm_v0.parallel_env(num_agents=3, max_steps=max_steps))
        obs, _ = env.reset(seed=0)
        step, terminated = 0, {}
        while step < max_steps and not any(terminated.values()):
            step += 1
            actions = {agent: steer(seen[None])[0] for agent, seen in obs.items()}
            obs, _, terminated, truncated, _ = env.step(actions)
        return step, terminated, truncated

    first, terminated, truncated = play(200)
    assert first < 200
    _, terminated, truncated = play(first)
    assert all(terminated[agent] or truncated[agent] for agent in terminated if agent != "__all__")
    assert not terminated["__all__"]
    assert not truncated["__all__"]
