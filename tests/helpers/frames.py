"""Worlds to draw, and finding what was drawn."""

import numpy as np

from entropy_env.render.scene import agent_colours
from entropy_env.types import Layout, SwarmState


def world(positions, goals=None, size=(8, 6), walls=(), boxes=(), discs=(), **fields):
    """A state of NumPy leaves; goals lie on the robots unless given."""
    positions = np.array(positions, np.float32)
    n = len(positions)
    layout = Layout(
        size=np.array(size, np.float32),
        walls=np.array(walls, np.float32).reshape(-1, 2, 2),
        wall_mask=np.ones(len(walls), bool),
        boxes=np.array(boxes, np.float32).reshape(-1, 4),
        box_mask=np.ones(len(boxes), bool),
        discs=np.array(discs, np.float32).reshape(-1, 3),
        disc_mask=np.ones(len(discs), bool),
        spawns=np.zeros((n, 1, 3), np.float32),
        goals=np.array(positions if goals is None else goals, np.float32)[:, None],
        valid=np.array(True),
        key=np.zeros(2, np.uint32),
    )
    state = SwarmState(
        layout=layout,
        position=positions,
        heading=np.zeros(n, np.float32),
        wheel_speed=np.zeros((n, 2), np.float32),
        velocity=np.zeros((n, 2), np.float32),
        angular_velocity=np.zeros(n, np.float32),
        rounding=np.zeros((n, 6), np.float32),
        penetration=np.zeros((n, 2), np.float32),
        active=np.ones(n, bool),
        goal_index=np.zeros(n, np.int32),
        goals_reached=np.zeros(n, np.int32),
        collided=np.zeros(n, bool),
        step=np.array(0, np.int32),
        over=np.array(False),
    )
    return state.replace(**{name: np.asarray(value) for name, value in fields.items()})


def near(frame, colour):
    return (np.abs(frame.astype(int) - np.array(colour, int)) <= 6).all(axis=-1)


def locate(frame, agent, num_agents):
    """(row, column) of the middle of a robot."""
    rows, columns = np.nonzero(near(frame, agent_colours(num_agents)[agent]))
    return round((rows.min() + rows.max()) / 2), round((columns.min() + columns.max()) / 2)
