"""The stages of a step, and the order in which they come.

A stage works on a range of agents and leaves in their records what the next ones need, or it works on a whole world.
"""

from __future__ import annotations

import numpy as np

from entropy_env.engines.numba_engine.physics.force import IMPULSE_ROUNDS

MEET = 0  # set the limits of a control period, and sort the agents by where they are
PREPARE = 1  # read the actions, and list whom each agent may touch
DRIVE = 2  # say where each agent wants to go
COUNT = 3  # count the contacts there
COLLIDE = 4  # add one round of impulses
TOUCH = 5  # find the displacements that are safe
SCORE = 6  # give rewards, and end what goals and the time limit end
END = 7  # advance the clock
SORT = 8  # sort the agents again, where they are now
SEE_LAST = 9  # observe for those whose episode has ended
RETURN = 10  # bring inactive agents back
SEE = 11  # observe for all who act next
WHOLE_WORLD = MEET, END, SORT, RETURN  # cannot be shared out by agents


def make_schedule(substeps: int, force: bool) -> np.ndarray:
    """(K, 2) int32, the stages of a step one after the other, and of COLLIDE which round it is. force: the drive."""
    impulses = [(COUNT, 0), *((COLLIDE, turn) for turn in range(IMPULSE_ROUNDS))] if force else []
    substep = [(DRIVE, 0), *impulses, (TOUCH, 0)]
    after = [(stage, 0) for stage in (SCORE, END, SORT, SEE_LAST, RETURN, SEE)]
    return np.array([(MEET, 0), (PREPARE, 0), *substep * substeps, *after], np.int32)


def place_of(stage: int, schedule: np.ndarray) -> int:
    """Where a stage stands that comes once in a step."""
    (place,) = np.flatnonzero(schedule[:, 0] == stage)
    return int(place)
