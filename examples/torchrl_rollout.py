"""Play an episode in TorchRL. All robots are one group of a tensordict, with a mask of those that have not arrived.

    python examples/torchrl_rollout.py --scenario obstacles --num-agents 5

It needs TorchRL, which is in none of the extras: `pip install torchrl`. Written for TorchRL 0.14.

TorchRL always acts for all robots. The swarm ignores the actions of those that have arrived. `mask` says which robots act
in a step, and so to which of them the rewards in `next` belong. The `mask` in `next` says which robots go on.
With `done_on_any=False` an episode lasts until all robots have ended. By default it ends as soon as one robot arrives.
"""

from __future__ import annotations

import sys
import warnings
from typing import Literal

import tyro

from entropy_env import SwarmSpec, swarm_v0


def main(
    scenario: str = "open",
    difficulty: int = 1,
    num_agents: int = 10,
    max_steps: int = 200,
    policy: Literal["random", "steer"] = "random",
    seed: int = 0,
) -> None:
    """Play one episode. policy: `random`, or `steer` for robots that look only at their goals."""
    try:
        import torch
        from tensordict.nn import TensorDictModule
        from torchrl.envs import PettingZooWrapper, check_env_specs
    except ModuleNotFoundError as error:
        print(f"this example needs TorchRL ({error}): pip install torchrl", file=sys.stderr)
        sys.exit(2)

    def steer(observation: torch.Tensor) -> torch.Tensor:
        ahead, left = observation[..., SwarmSpec().slice("goal")].unbind(-1)
        bearing = torch.atan2(left, ahead)
        drive, turn = 0.6 * torch.cos(bearing).clamp(min=0), 0.25 * bearing
        return torch.stack([drive - turn, drive + turn], dim=-1)

    policies = {
        "random": None,
        "steer": TensorDictModule(steer, in_keys=[("agent", "observation")], out_keys=[("agent", "action")]),
    }

    world = swarm_v0.parallel_env(num_agents=num_agents, scenario=scenario, difficulty=difficulty, max_steps=max_steps)
    with warnings.catch_warnings(action="ignore", category=UserWarning):  # TorchRL was tested with another PettingZoo
        env = PettingZooWrapper(world, use_mask=True, done_on_any=False, seed=seed)
    check_env_specs(env)
    print({group: len(agents) for group, agents in env.group_map.items()}, "robots by group")

    torch.manual_seed(seed)
    env.set_seed(seed)
    transition = env.rollout(max_steps, policies[policy])
    robots, after = transition["agent"], transition["next", "agent"]
    print(robots)
    acted = robots["mask"]  # (T, N)
    returns = (after["reward"][..., 0] * acted).sum(dim=0)
    arrived = (after["terminated"][..., 0] & acted).any(dim=0)
    print(
        f"{len(transition)} steps, {arrived.sum()} of {num_agents} arrived, {acted.sum()} of {acted.numel()} actions counted, "
        f"mean return {returns.mean():.2f}"
    )
    env.close()


if __name__ == "__main__":
    tyro.cli(main)
