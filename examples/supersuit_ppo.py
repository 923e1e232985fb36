"""Stable-Baselines3's PPO on the swarm through SuperSuit: one policy, every robot of every world a lane of its own.

    python examples/supersuit_ppo.py --scenario obstacles --total-steps 200000

It needs the extras: `pip install 'entropy-env[supersuit,sb3]'`. Robots that arrive start again elsewhere, so that all
end together at the time limit, which is the only kind of episode that SuperSuit takes.

For more than a first look there is `entropy_env.adapters.sb3.SwarmVecEnv`, which steps all worlds in one call: more
than ten times as fast, and without any of these limits of SuperSuit 3.11 with Stable-Baselines3 2.9:

- `PPO(..., seed=0)` raises AttributeError, as do `seed` and `reset(seed=0)`. What repeats a run is
  `stable_baselines3.common.utils.set_random_seed(0)` and, before `learn`, `worlds.venv.reset(seed=0)`.
- `get_attr`, `set_attr` and `env_method` raise AttributeError too: nothing can be asked of a world or changed in it.
- The worlds are copies of the one that was wrapped. Had that been reset before, all would draw the same layouts for ever.
- `TimeLimit.truncated` is never set, so PPO takes the time limit for a failure, after which nothing more can be earned.
- An assertion fails once an agent leaves before the others, as all do who arrive with `on_goal="terminate"`.
- `num_cpus=1` starts no process. From 2 on, workers start in Python's usual way: by a fork, on Linux before Python 3.14,
  which fails where this process has reset an environment before. `multiprocessing.set_start_method("spawn")` helps,
  under `if __name__ == "__main__":`. On two cores, four worlds of ten robots were slower that way than in one process.
- No episode is counted: `rollout/ep_rew_mean` needs the `VecMonitor` below.
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
    """Train for a moment. Steps are agent steps; a rollout is so many control periods of all worlds."""
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
