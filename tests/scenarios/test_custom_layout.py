import numpy as np
import pytest

from entropy_env import Swarm, SwarmSpec, make_layout, swarm_v0
from entropy_env.scenarios.custom import check_layout, pad_layout, spec_for
from entropy_env.types import SwarmParams

TWO = {"size": (4.0, 3.0), "spawns": [[1.0, 1.0, 0.5], [3.0, 1.0, 0.0]], "goals": [[1.0, 2.0], [3.0, 2.0]]}


def test_one_pose_serves_for_several_goals():
    layout = make_layout((4, 3), spawns=[[1, 1], [3, 1]], goals=np.ones((2, 3, 2)))
    assert layout.spawns.shape == (2, 3, 3)
    assert layout.goals.shape == (2, 3, 2)
    np.testing.assert_array_equal(layout.spawns[0], [[1, 1, 0]] * 3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": (4, 3, 2)}, r"size has shape \(3,\), expected \(2\)"),
        ({"size": (4, -3)}, r"size\[1\]=-3 must be from 0.001 to 1000 m"),
        ({"walls": [[1, 1, 2, 2]]}, r"walls has shape \(1, 4\), expected \(any, 2, 2\)"),
        ({"boxes": [[1, 1, 0, 2]]}, r"boxes\[0, 2\]=0 must be from 1e-06 to 2000 m"),
        ({"discs": [[1, 1]]}, r"discs has shape \(1, 2\), expected \(any, 3\)"),
        ({"discs": [[1, 1, "wide"]]}, "discs must be an array of numbers"),
        ({"walls": [[[0, 0], [np.nan, 1]]]}, r"walls\[0, 1, 0\]=nan must be from -2000 to 2000 m"),
        ({"spawns": [1, 1]}, r"spawns has shape \(2,\), expected \(agents, 2 or 3\)"),
        ({"spawns": [[1, 1], [1]]}, "spawns must be an array of numbers"),
        ({"goals": [[1, 2, 0]] * 2}, r"goals has shape \(2, 3\), expected \(agents, 2\)"),
        ({"goals": [[1, 2]]}, "spawns are for 2 agents, goals for 1"),
        ({"goals": np.ones((2, 3, 2)), "spawns": np.ones((2, 2, 3))}, "spawns have 2 poses an agent, goals 3"),
    ],
)
def test_wrong_shapes_and_values_name_the_argument(changes, message):
    with pytest.raises(ValueError, match=message):
        make_layout(**(TWO | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"spawns": [[1, 1], [3.95, 1]]}, r"agent_1: its spawn .* is not inside the arena of \[4.0, 3.0\] m"),
        ({"spawns": [[1, 1], [3, 2.95]]}, r"agent_1: its spawn .* is not inside the arena"),
        ({"spawns": [[[1, 1], [1, 2]], [[3, 1], [0, 1]]]}, r"agent_1: its spawn \[0.0, 1.0\] is not inside the arena"),
        (
            {"walls": [[[0, 2.5], [4, 2.5]], [[2.9, 0], [2.9, 2]]]},
            r"agent_1: its spawn \[3.0, 1.0\] overlaps walls\[1\]",
        ),
        ({"boxes": [[1, 1, 0.2, 0.2]]}, r"agent_0: its spawn .* overlaps boxes\[0\]"),
        ({"walls": [[[0, 2.5], [4, 2.5]]], "discs": [[3.2, 1, 0.15]]}, r"agent_1: .* overlaps discs\[0\]"),
        ({"spawns": [[1, 1], [1.15, 1]]}, r"agent_1: its spawn .* overlaps agent_0's at \[1.0, 1.0\]"),
        ({"goals": [[1, 2], [3, 3.5]]}, r"agent_1: its goal \[3.0, 3.5\] is not inside the arena"),
    ],
)
def test_a_place_that_cannot_be_names_the_agent(changes, message):
    layout = make_layout(**(TWO | changes))
    with pytest.raises(ValueError, match=message):
        check_layout(pad_layout(layout, spec_for(layout, Swarm(SwarmSpec(2, num_walls=3)).spec)), SwarmParams())


def test_places_that_only_touch_are_fine():
    check_layout(make_layout(**(TWO | {"spawns": [[0.1, 0.1], [0.3, 0.1]]})), SwarmParams())


def test_a_larger_robot_fits_nowhere_a_smaller_one_does():
    layout = make_layout(**(TWO | {"spawns": [[1, 1], [1.5, 1]]}))
    check_layout(layout, SwarmParams(agent_radius=0.2))
    with pytest.raises(ValueError, match="agent_1"):
        check_layout(layout, SwarmParams(agent_radius=0.3))


def test_a_map_with_more_bodies_than_slots_makes_room():
    layout = make_layout(**TWO, walls=[[[2, 0], [2, 1]]], discs=[[2, 2, 0.1]])
    spec = Swarm(SwarmSpec(2, num_walls=3)).spec
    room = spec_for(layout, spec)
    padded = pad_layout(layout, room)
    assert (room.num_walls, room.num_boxes, room.num_discs) == (3, 0, 1)
    assert padded.walls.shape == (3, 2, 2)
    assert padded.wall_mask.tolist() == [True, False, False]
    assert padded.discs.shape == (1, 3)
    assert padded.disc_mask.tolist() == [True]


def test_robots_see_the_bodies_of_a_map():
    from entropy_env import swarm_v0

    layout = make_layout(**(TWO | {"spawns": [[1, 1], [3, 1]]}), walls=[[[1.75, 0], [1.75, 3]]])
    env = swarm_v0.parallel_env(2, layout=layout)
    observations, _ = env.reset()
    assert observations["agent_0"][SwarmSpec().slice("lidar")][0] == pytest.approx(
        (1.75 - 0.05 - 1 - 0.1) / 3, abs=1e-5
    )


def test_a_goal_deep_in_a_body_is_refused_and_one_at_its_edge_is_not():
    box = {"boxes": [[3.0, 2.0, 0.4, 0.4]]}
    with pytest.raises(ValueError, match=r"agent_1: its goal \[3.0, 2.0\] is too deep in boxes\[0\]"):
        check_layout(make_layout(**TWO | box), SwarmParams())
    check_layout(make_layout(**TWO | box | {"goals": [[1.0, 2.0], [2.7, 2.0]]}), SwarmParams())


def test_a_map_holds_as_many_robots_as_it_has_spawns():
    places = np.stack(np.meshgrid(np.arange(20.0), np.arange(15.0)), axis=-1).reshape(-1, 2) + 0.5
    env = swarm_v0.parallel_env(num_agents=300, layout=make_layout((20, 15), spawns=places, goals=places[::-1]))
    observations, _ = env.reset(seed=0)
    assert len(observations) == 300


def test_lifelong_navigation_needs_somewhere_to_go_next():
    with pytest.raises(ValueError, match="at least 2 goals"):
        swarm_v0.parallel_env(num_agents=2, on_goal="next_goal", layout=make_layout(**TWO))
