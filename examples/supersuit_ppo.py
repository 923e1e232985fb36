"""Train the swarm with Stable-Baselines3's PPO through SuperSuit. Every robot of every world is a lane; all share a policy.

    python examples/supersuit_ppo.py --scenario obstacles --total-steps 200000

It needs the extras: `pip install 'entropy-env[supersuit,sb3]'`. Robots that arrive start again elsewhere, so all end
together at the time limit. SuperSuit accepts no other kind of episode.

For more than a first look use `entropy_env.adapters.sb3.SwarmVecEnv`. It steps all worlds in one call, is more than ten
times as fast, and has none of these limits of SuperSuit 3.11 with Stable-Baselines3 2.9:

- `PPO(..., seed=0)`, `seed` and `reset(seed=0)` raise AttributeError. To repeat a run, call
  `stable_baselines3.common.utils.set_random_seed(0)` and, before `learn`, `worlds.venv.reset(seed=0)`.
- `get_attr`, `set_attr` and `env_method` raise AttributeError too, so a world can be neither inspected nor changed.
- The worlds are copies of the wrapped one. If that has been reset before, all copies draw the same layouts forever.
- `TimeLimit.truncated` is never set, so PPO takes the time limit for a failure after which no reward follows.
- An assertion fails once an agent leaves before the others, as agents that arrive do with `on_goal="terminate"`.
- `num_cpus=1` starts no process. With 2 or more, workers start in Python's default way. On Linux before Python 3.14 that
  is a fork, which fails if this process has already reset an environment. Calling
  `multiprocessing.set_start_method("spawn")` under `if __name__ == "__main__":` helps. On two cores, four worlds of ten
  robots were slower that way than in one process.
- Episodes are not counted: `rollout/ep_rew_mean` needs the `VecMonitor` below.
"""

from __future__ import annotations

import sys

import tyro

from entropy_env import swarm_v0


def main(
    scenario: str = "open",
    difficulty: int = 1,
    num_agents: int = 10,
    num_worlds: int = 4,
    rollout: int = 128,
    max_steps: int | None = None,
    total_steps: int = 20_000,
) -> None:
    """Train briefly. total_steps: agent steps. rollout: control periods of all worlds between two updates."""
    try:
        import supersuit
        from stable_baselines3 import PPO
        from stable_baselines3.common.vec_env import VecMonitor
    except ModuleNotFoundError as error:
        needs = "this example needs SuperSuit and Stable-Baselines3"
        print(f"{needs} ({error}): pip install 'entropy-env[supersuit,sb3]'", file=sys.stderr)
        sys.exit(2)

    world = swarm_v0.parallel_env(
        num_agents=num_agents, scenario=scenario, difficulty=difficulty, max_steps=max_steps, on_goal="respawn"
    )
    lanes = supersuit.pettingzoo_env_to_vec_env_v1(world)
    worlds = supersuit.concat_vec_envs_v1(lanes, num_worlds, base_class="stable_baselines3")
    envs = VecMonitor(worlds)
    print(f"{envs.num_envs} lanes, observations {envs.observation_space.shape}, actions {envs.action_space.shape}")

    model = PPO("MlpPolicy", envs, n_steps=rollout, batch_size=rollout * envs.num_envs // 4, device="cpu", verbose=1)
    model.learn(total_steps)
    returns = [episode["r"] for episode in model.ep_info_buffer]
    if returns:
        print(f"mean return of the last {len(returns)} episodes of a robot: {sum(returns) / len(returns):.2f}")
    envs.close()


if __name__ == "__main__":
    tyro.cli(main)
