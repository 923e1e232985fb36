"""Train a policy, measure it on fresh worlds, and drive a PettingZoo environment with it.

    python examples/train_and_evaluate.py --scenario obstacles --total-steps 5000000

From a shell, `python -m trainers.jax_ppo` and `python -m trainers.evaluate` do the same.
"""

from __future__ import annotations

from pathlib import Path

import tyro

from entropy_env import swarm_v0
from trainers.evaluate import evaluate, load_policy
from trainers.jax_ppo import PPOConfig, train


def main(
    scenario: str = "open",
    num_agents: int = 10,
    num_envs: int = 256,
    total_steps: int = 2_000_000,
    episodes: int = 64,
    run_dir: Path | None = None,
) -> None:
    """Train, evaluate, and play one episode."""
    config = PPOConfig(
        scenario=scenario, num_agents=num_agents, num_envs=num_envs, total_steps=total_steps, run_dir=run_dir
    )
    run_dir = train(config)

    results = evaluate(run_dir, episodes)
    for name in ("success", "collision_rate", "spl"):
        mean, low, high = results[name].values()
        print(f"{name}: {mean:.3f}, 95 % interval {low:.3f} to {high:.3f}")

    policy = load_policy(run_dir)
    env = swarm_v0.parallel_env(num_agents=num_agents, scenario=scenario)
    observations, _ = env.reset(seed=0)
    arrived = 0
    while env.agents:
        actions = {agent: policy(observations[agent]) for agent in env.agents}
        observations, _rewards, terminations, _truncations, _infos = env.step(actions)
        arrived += sum(terminations.values())
    print(f"PettingZoo: {arrived} of {num_agents} robots arrived")


if __name__ == "__main__":
    tyro.cli(main)
