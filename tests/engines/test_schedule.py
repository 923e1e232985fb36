import pytest

from entropy_env.engines.numba_engine import schedule
from entropy_env.engines.numba_engine.schedule import (
    AIM,
    ARRIVE,
    COLLIDE,
    COUNT,
    DRIVE,
    END,
    GATHER,
    GATHER_LAST,
    HEAR,
    HEAR_LAST,
    MEET,
    PREPARE,
    RETURN,
    SCORE,
    SEE,
    SEE_LAST,
    SORT,
    SPEAK,
    SURROUND,
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


def test_those_who_talk_speak_first_and_hear_last_and_each_cell_size_is_sorted_for_apart():
    stages = make_schedule(1, force=False, social=True, talks=True)[:, 0].tolist()
    after = [SCORE, END, GATHER_LAST, HEAR_LAST, SORT, SEE_LAST, RETURN, SEE, GATHER, HEAR]
    assert stages == [SPEAK, MEET, PREPARE, DRIVE, TOUCH, *after]
    targeted = make_schedule(1, force=False, social=True, talks=True, targeted=True)[:, 0].tolist()
    assert targeted == [SPEAK, SURROUND, AIM, *stages[1:]]


def test_pairs_arrive_before_their_reward_and_need_no_words():
    stages = make_schedule(1, force=False, social=True, paired=True)[:, 0].tolist()
    assert stages == [MEET, PREPARE, DRIVE, TOUCH, ARRIVE, SCORE, END, HEAR_LAST, SORT, SEE_LAST, RETURN, SEE, HEAR]


@pytest.mark.parametrize("force", [False, True])
def test_a_stage_that_comes_once_is_found(force):
    stages = make_schedule(3, force)
    assert [stages[place_of(stage, stages), 0] for stage in AFTER] == AFTER
