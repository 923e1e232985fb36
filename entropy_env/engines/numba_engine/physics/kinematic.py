"""`entropy_env.physics.kinematic` in compiled loops, agent by agent."""

from __future__ import annotations

import math

import numpy as np

from entropy_env.engines.numba_engine.compilation import inlined
from entropy_env.engines.numba_engine.geometry import TWO, ZERO, clipped, cos_sin, sinc, wrap_angle


@inlined
def set_command(me, motors, p):
    """Set the wheel speeds that motors (2,) ask for."""
    for wheel in range(2):
        me.command[wheel] = clipped(motors[wheel]) * p.max_wheel_speed
        me.move[wheel] = ZERO


@inlined
def follow_arc(me, p, h, longest):
    """Make the move of the substep before, and aim along the exact arc of the next, as the JAX side's `follow_arc`.

    h: s, the substep. longest: m, the longest displacement in a substep.
    """
    if not me.active:
        return
    left, right = me.command[0], me.command[1]
    if p.motor_tau > ZERO:
        keep = np.float32(math.exp(-h / p.motor_tau))
        left += (me.wheel_speed[0] - left) * keep
        right += (me.wheel_speed[1] - right) * keep
    half_turn = (right - left) / p.wheel_base * h / TWO
    chord = (left + right) / TWO * h * sinc(half_turn)
    chord = min(max(chord, -longest), longest)
    middle = me.heading + half_turn
    me.heading = wrap_angle(middle + half_turn)
    me.wheel_speed[0], me.wheel_speed[1] = left, right
    x, y = me.position[0] + me.move[0], me.position[1] + me.move[1]
    me.position[0], me.position[1] = x, y
    cos, sin = cos_sin(middle)
    me.wanted[0], me.wanted[1] = x + chord * cos, y + chord * sin


@inlined
def settle(me):
    """Make the move of the last substep."""
    me.position[0] += me.move[0]
    me.position[1] += me.move[1]
