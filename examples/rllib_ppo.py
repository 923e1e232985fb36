"""Train the swarm with RLlib's PPO. All robots share one policy.

    python examples/rllib_ppo.py --scenario obstacles --iterations 20

It needs Ray, which is in none of the extras: `pip install 'ray[rllib]' torch`. Leave out constraints.txt, because Ray 2.60
asks for Gymnasium 1.2.2, with which entropy-env works too. Written for Ray 2.60 and its new API stack.

Robots that arrive start again elsewhere, so all end together.
Known limit: with `on_goal="terminate"` RLlib's wrapper handles robots that leave one after another. But if some arrive in
the same step in which the time limit ends the others, it misses the end of the episode, and the next step raises.
"""

from __future__ import annotations

import sys

import tyro

from entropy_env import swarm_v0


def main(
    scenario: str = "open",
    difficulty: int = 1,
    num_agents: int = 10,
    max_steps: int = 100,
    iterations: int = 2,
    batch: int = 1000,
    workers: int = 0,
) -> None:
    """Train briefly. batch: control periods per iteration. workers: processes that collect them, 0 for this one."""
    try:
        import ray
        from ray.rllib.algorithms.ppo import PPOConfig
        from ray.rllib.env.wrappers.pettingzoo_env import ParallelPettingZooEnv
        from ray.tune.registry import register_env
    except ModuleNotFoundError as error:
        print(f"this example needs RLlib ({error}): pip install 'ray[rllib]' torch", file=sys.stderr)
        sys.exit(2)

    world = {"num_agents": num_agents, "scenario": scenario, "difficulty": difficulty, "max_steps": max_steps}
    register_env("swarm", lambda config: ParallelPettingZooEnv(swarm_v0.parallel_env(on_goal="respawn", **config)))
    config = (
        PPOConfig()
        .environment("swarm", env_config=world)
        .multi_agent(policies={"shared"}, policy_mapping_fn=lambda agent, episode, **_: "shared")
        .env_runners(num_env_runners=workers)
        .training(train_batch_size_per_learner=batch, minibatch_size=batch, num_epochs=4)
    )

    ray.init(include_dashboard=False)
    algorithm = config.build_algo()
    for iteration in range(iterations):
        transition = algorithm.train()["env_runners"]
        print(
            f"iteration {iteration}: {transition['num_env_steps_sampled_lifetime']:.0f} steps, "
            f"mean return of a robot {transition['episode_return_mean'] / num_agents:.2f}"
        )
    algorithm.stop()
    ray.shutdown()


if __name__ == "__main__":
    tyro.cli(main)
