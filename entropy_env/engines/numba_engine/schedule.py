"""The stages of a step, and their order.

A stage works on a range of agents, or on a whole world. What the next stages need, it leaves in the records.
"""

from __future__ import annotations

import numpy as np

from entropy_env.engines.numba_engine.physics.force import IMPULSE_ROUNDS

MEET = 0  # set the limits of a control period, and sort the agents into cells
PREPARE = 1  # read the actions, and list whom each agent may touch
DRIVE = 2  # find where each agent wants to go
COUNT = 3  # count the contacts there
COLLIDE = 4  # add one round of impulses
TOUCH = 5  # find the displacements that are safe
SCORE = 6  # give rewards, and end episodes at goals and at the time limit
END = 7  # advance the clock
SORT = 8  # sort the agents again, by their new positions
SEE_LAST = 9  # observe for the agents whose episode has ended
RETURN = 10  # bring inactive agents back
SEE = 11  # observe for the agents that act next
# where robots talk, come in pairs or teams, or are scouts, `arrays.is_social`; words where they talk
SPEAK = 12  # note what is said
SURROUND = 13  # sort the agents into cells as wide as a word is heard
GATHER_LAST = 14  # sort those whose words arrive into such cells, if an episode has ended
GATHER = 15  # sort those whose words arrive
AIM = 16  # find for whom each word is
ARRIVE = 17  # of partners, make the last move, and note who is at its goal
HEAR_LAST = 18  # observe what is of others, for the agents whose episode has ended
HEAR = 19  # observe what is of others, for the agents that act next
WHOLE_WORLD = MEET, END, SORT, RETURN, SURROUND, GATHER_LAST, GATHER  # stages whose agents cannot be shared by threads


def make_schedule(
    substeps: int, force: bool, social: bool = False, paired: bool = False, talks: bool = False, targeted: bool = False
) -> np.ndarray:
    """Return the stages of a step in order, (K, 2) int32: each with its round if it is COLLIDE.

    force: the drive. social: `arrays.is_social`. paired: whether robots have partners. talks: whether they speak.
    targeted: whether each word is for one alone.
    """
    impulses = [(COUNT, 0), *((COLLIDE, turn) for turn in range(IMPULSE_ROUNDS))] if force else []
    substep = [(DRIVE, 0), *impulses, (TOUCH, 0)]
    before = [SPEAK] * talks + [SURROUND, AIM] * (talks and targeted) + [MEET, PREPARE]
    # Words go by cells as wide as they are heard, and lidar by its own, so hearing comes before the sort or after all.
    gather_last, gather = [GATHER_LAST] * talks, [GATHER] * talks
    last, then = ([*gather_last, HEAR_LAST], [*gather, HEAR]) if social else ([], [])
    after = [*[ARRIVE] * paired, SCORE, END, *last, SORT, SEE_LAST, RETURN, SEE, *then]
    return np.array(
        [*((stage, 0) for stage in before), *substep * substeps, *((stage, 0) for stage in after)], np.int32
    )


def place_of(stage: int, schedule: np.ndarray) -> int:
    """Return the place in the schedule of a stage that comes once."""
    (place,) = np.flatnonzero(schedule[:, 0] == stage)
    return int(place)
