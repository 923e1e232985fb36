"""Act at random in the PettingZoo environment, and print a line for every episode.

    python examples/random_rollout.py --scenario obstacles --num-agents 5

This is the complete loop of a multi-agent episode. Robots that arrive leave `env.agents`, the others stay until the time
limit.
"""

from __future__ import annotations

import numpy as np
import tyro

from entropy_env import swarm_v0


def main(scenario: str = "open", difficulty: int = 1, num_agents: int = 10, episodes: int = 3, seed: int = 0) -> None:
    """Play episodes with random actions, and print the results of each."""
    env = swarm_v0.parallel_env(num_agents=num_agents, scenario=scenario, difficulty=difficulty)
    for index, agent in enumerate(env.possible_agents):
        env.action_space(agent).seed(seed + index)
    env.reset(seed=seed)  # the resets below go on with the random numbers of this seed
    for episode in range(episodes):
        env.reset()
        returns, contacts, arrived, steps = dict.fromkeys(env.agents, 0.0), 0, 0, 0
        while env.agents:
            actions = {agent: env.action_space(agent).sample() for agent in env.agents}
            _observations, rewards, terminations, _truncations, infos = env.step(actions)
            for agent, reward in rewards.items():
                returns[agent] += reward
                contacts += infos[agent]["collision"]
            arrived += sum(terminations.values())
            steps += 1
        print(
            f"episode {episode}: {steps} steps, {arrived} of {num_agents} arrived, "
            f"{contacts} contacts, mean return {np.mean(list(returns.values())):.2f}"
        )
    env.close()


if __name__ == "__main__":
    tyro.cli(main)
