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
WHOLE_WORLD = MEET, END, SORT, RETURN  # stages whose agents cannot be shared by threads


def make_schedule(substeps: int, force: bool) -> np.ndarray:
    """Return the stages of a step in order, (K, 2) int32: each with its round if it is COLLIDE. force: the drive."""
    impulses = [(COUNT, 0), *((COLLIDE, turn) for turn in range(IMPULSE_ROUNDS))] if force else []
    substep = [(DRIVE, 0), *impulses, (TOUCH, 0)]
    after = [(stage, 0) for stage in (SCORE, END, SORT, SEE_LAST, RETURN, SEE)]
    return np.array([(MEET, 0), (PREPARE, 0), *substep * substeps, *after], np.int32)


def place_of(stage: int, schedule: np.ndarray) -> int:
    """Return the place in the schedule of a stage that comes once."""
    (place,) = np.flatnonzero(schedule[:, 0] == stage)
    return int(place)
