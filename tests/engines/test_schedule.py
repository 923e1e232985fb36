import pytest

from entropy_env.engines.numba_engine import schedule
from entropy_env.engines.numba_engine.schedule import (
    COLLIDE,
    COUNT,
    DRIVE,
    END,
    MEET,
    PREPARE,
    RETURN,
    SCORE,
    SEE,
    SEE_LAST,
    SORT,
    TOUCH,
    make_schedule,
    place_of,
)

AFTER = [SCORE, END, SORT, SEE_LAST, RETURN, SEE]


def test_a_substep_of_the_kinematic_drive_moves_and_touches():
    assert make_schedule(2, force=False)[:, 0].tolist() == [MEET, PREPARE, DRIVE, TOUCH, DRIVE, TOUCH, *AFTER]


def test_a_substep_of_the_force_drive_has_its_rounds_of_impulses_between():
    stages = make_schedule(2, force=True)
    substep = [DRIVE, COUNT, *[COLLIDE] * schedule.IMPULSE_ROUNDS, TOUCH]
    assert stages[:, 0].tolist() == [MEET, PREPARE, *substep, *substep, *AFTER]
    assert stages[stages[:, 0] == COLLIDE, 1].tolist() == [*range(schedule.IMPULSE_ROUNDS)] * 2


@pytest.mark.parametrize("force", [False, True])
def test_a_stage_that_comes_once_is_found(force):
    stages = make_schedule(3, force)
    assert [stages[place_of(stage, stages), 0] for stage in AFTER] == AFTER
