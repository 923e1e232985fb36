"""What robots that belong together do to each other: teams share rewards, and scouts leave with the last carrier."""

from __future__ import annotations

import numpy as np

from entropy_env.engines.numba_engine.compilation import spliced
from entropy_env.engines.numba_engine.geometry import ONE, ZERO


@spliced
def let_scouts_go(w, choices, e):
    """End the episodes of all scouts if no carrier is left."""
    going = False
    for i in range(choices.scouts, w.agents.shape[1]):
        going |= w.agents[e, i].active
    if not going:
        for i in range(choices.scouts):
            me = w.agents[e, i]
            if me.active:
                me.active, me.terminated, me.truncated, me.success = False, True, False, False


@spliced
def share_rewards(w, p, choices, e):
    """Replace rewards by what a team leaves to each, as `rewards.shared_in_team`."""
    if not choices.shared or p.reward_team == ZERO:
        return
    team, num_agents, own = w.maps.team[e], w.agents.shape[1], ONE - p.reward_team
    for i in range(num_agents):  # `asked` is unused here: whether an agent has its share
        w.agents[e, i].asked = 0
    for i in range(num_agents):
        if w.agents[e, i].asked == 0 and w.agents[e, i].acted:
            total, count = ZERO, 0
            for j in range(i, num_agents):
                if team[j] == team[i] and w.agents[e, j].acted:
                    total += w.agents[e, j].reward
                    count += 1
            common = p.reward_team * (total / np.float32(count))
            for j in range(i, num_agents):
                if team[j] == team[i] and w.agents[e, j].acted:
                    w.agents[e, j].reward = own * w.agents[e, j].reward + common
                    w.agents[e, j].asked = 1
