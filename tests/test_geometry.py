import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import reference

from entropy_env import geometry

pytestmark = pytest.mark.core

TOLERANCE = 1e-5  # m
CASES = 512


@functools.cache
def batched(name):
    return jax.jit(jax.vmap(getattr(geometry, name)))


def run(name, *arguments):
    return jax.tree.map(np.asarray, batched(name)(*(jnp.asarray(argument, jnp.float32) for argument in arguments)))


def one_by_one(function, arguments):
    """The reference over the leading axis, on the same float32 numbers."""
    arguments = [np.asarray(argument, np.float32).astype(np.float64) for argument in arguments]
    return [function(*item) for item in zip(*arguments, strict=True)]


def unit(angle):
    return np.stack([np.cos(angle), np.sin(angle)], axis=-1)


def bodies(kind, rng):
    """The arguments that describe CASES random bodies, and their radius-like last number where they have one."""
    centre = rng.uniform(2, 6, (CASES, 2))
    if kind == "disc":
        return centre, rng.uniform(0.05, 1.0, CASES)
    if kind in ("capsule", "segment"):
        length = rng.choice([0.0, 1e-3, 0.5, 3.0], CASES)
        return centre, centre + length[:, None] * unit(rng.uniform(-np.pi, np.pi, CASES)), rng.uniform(0, 0.3, CASES)
    if kind == "box":
        return centre, rng.uniform(0.05, 1.0, (CASES, 2))
    return (centre + 2,)


def check_separation(name, point, *body):
    gap, *normal = run(name, point, *body)
    expected = one_by_one(getattr(reference, name), (point, *body))
    np.testing.assert_allclose(gap, [e[0] for e in expected], atol=TOLERANCE)
    normal = np.stack(normal, axis=-1)
    np.testing.assert_allclose(np.linalg.norm(normal, axis=-1), 1, atol=TOLERANCE)
    return gap, normal, np.array([e[1] for e in expected])


@pytest.mark.parametrize("kind", ["disc", "capsule", "box"])
def test_separation_is_the_signed_distance_and_its_direction(kind):
    rng = np.random.default_rng(0)
    body = bodies(kind, rng)
    middle = (body[0] + body[1]) / 2 if kind == "capsule" else body[0]
    point = middle + rng.uniform(-1.5, 1.5, (CASES, 2))
    gap, normal, expected = check_separation(f"separation_{kind}", point, *body)
    assert (gap < 0).any()
    assert (gap > 0).any()
    np.testing.assert_allclose(normal, expected, atol=1e-3)
    leaving = point - normal * (gap - 1e-3)[:, None] * np.where(gap < 0, -1, 0)[:, None]
    assert np.all(run(f"separation_{kind}", leaving, *body)[0] > -TOLERANCE)


@pytest.mark.parametrize(
    ("name", "body", "depth"),
    [
        ("separation_disc", ([2.0, 3.0], 0.4), 0.4),
        ("separation_capsule", ([2.0, 3.0], [4.0, 3.0], 0.05), 0.05),
        ("separation_capsule", ([2.0, 3.0], [2.0, 3.0], 0.05), 0.05),
        ("separation_box", ([2.0, 3.0], [0.5, 0.2]), 0.2),
    ],
    ids=["disc", "wall", "wall of no length", "box"],
)
def test_a_point_in_the_middle_of_a_body_knows_a_way_out(name, body, depth):
    gap, normal, _ = check_separation(name, np.array([[2.0, 3.0]]), *(np.array([part]) for part in body))
    np.testing.assert_allclose(gap, -depth, atol=TOLERANCE)
    out = np.array([[2.0, 3.0]]) - normal * (depth + 0.01)
    assert run(name, out, *(np.array([part]) for part in body))[0] > 0


def test_the_way_out_of_a_wall_is_sideways():
    _, _, normal_y = run("separation_capsule", [[3.0, 3.0]], [[2.0, 3.0]], [[4.0, 3.0]], [0.05])
    np.testing.assert_allclose(np.abs(normal_y), 1, atol=TOLERANCE)


@pytest.mark.parametrize("corner", [(-0.5, -0.2), (-0.5, 0.2), (0.5, -0.2), (0.5, 0.2)])
def test_separation_of_a_box_at_its_corners_and_faces(corner):
    centre, half = np.array([[2.0, 3.0]] * 4), np.array([[0.5, 0.2]] * 4)
    corner = np.array(corner)
    point = centre + np.array([corner, corner * 1.5, corner * [1, 0], corner * [0.9, 0]])
    gap, _, _ = check_separation("separation_box", point, centre, half)
    np.testing.assert_allclose(gap, [0, np.hypot(0.25, 0.1), 0, -0.05], atol=TOLERANCE)


def test_separation_of_a_half_plane_is_negative_inside():
    rng = np.random.default_rng(1)
    point, offset, normal = rng.uniform(-2, 10, (CASES, 2)), rng.uniform(4, 8, CASES), unit(rng.uniform(-3, 3, CASES))
    gap, *found = run("separation_half_plane", point, normal, offset)
    np.testing.assert_allclose(gap, offset - np.sum(point * normal, axis=-1), atol=TOLERANCE)
    np.testing.assert_allclose(np.stack(found, axis=-1), normal, atol=TOLERANCE)
    assert (gap < 0).any()
    assert (gap > 0).any()


def along_unit(function):
    """A direction rounded to float32 is a little longer or shorter than 1; the reference wants it exact."""
    return lambda origin, direction, *body: function(origin, direction / np.linalg.norm(direction), *body)


def check_ray(kind, origin, direction, *body):
    """Against the reference within 1e-5 m, or between what bodies 1e-5 m larger and smaller give (grazing rays)."""
    hit = run(f"ray_{kind}", origin, direction, *body)
    function = getattr(reference, "ray_capsule" if kind == "segment" else f"ray_{kind}")
    grown = {"border": 0, "box": 1}.get(kind, len(body) - 1)
    outwards = -1 if kind == "border" else 1

    def cast(change):
        changed = [np.maximum(part + outwards * change, 0) if i == grown else part for i, part in enumerate(body)]
        return np.array(one_by_one(along_unit(function), (origin, direction, *changed)))

    exact = cast(0)
    seen = np.maximum(hit, 0)
    with np.errstate(invalid="ignore"):
        close = (np.abs(seen - exact) <= TOLERANCE) | (np.isinf(seen) & np.isinf(exact))
    grazing = (cast(1e-5) - TOLERANCE <= seen) & (seen <= cast(-1e-5) + TOLERANCE)
    for i in np.flatnonzero(~(close | grazing)):
        raise AssertionError([part[i].tolist() for part in (origin, direction, *body, seen, exact)])
    return hit, exact


@pytest.mark.parametrize("kind", ["disc", "segment", "box", "border"])
def test_rays_match_the_reference_from_anywhere(kind):
    rng = np.random.default_rng(2)
    body = bodies(kind, rng)
    origin = rng.uniform(0.5, 3, (CASES, 2)) if kind == "border" else body[0] + rng.uniform(-2, 2, (CASES, 2))
    aim = body[0] + rng.normal(0, 0.5, (CASES, 2)) - origin
    hit, exact = check_ray(kind, origin, aim / np.linalg.norm(aim, axis=-1)[:, None], *body)
    if kind != "border":
        assert np.isinf(exact).any()
        assert (exact == 0).any()
        assert (hit > 0.5).any()


@pytest.mark.parametrize("kind", ["disc", "segment", "box"])
def test_a_ray_from_inside_a_body_hits_at_once_whatever_its_direction(kind):
    rng = np.random.default_rng(3)
    body = [np.repeat(part[:16], 32, axis=0) for part in bodies(kind, rng)]
    body[-1] = np.maximum(body[-1], 0.05)
    along = unit(np.arange(32) / 32 * 2 * np.pi + 1e-4)
    axis = body[1] - body[0] if kind == "segment" else np.zeros((CASES, 2))
    origin = body[0] + rng.uniform(0, 1, (CASES, 1)) * axis + 0.02 * np.tile(along[::-1], (16, 1))
    if kind == "segment":
        along[:2] = [[1, 0], [-1, 0]]
    assert np.all(run(f"ray_{kind}", origin, np.tile(along, (16, 1)), *body) <= 0)


@pytest.mark.parametrize("direction", [(1.0, 0.0), (-1.0, 0.0), (0.9999995, 0.001), (0.9999995, -0.001)])
def test_a_ray_along_a_wall_hits_its_end_or_misses(direction):
    across = np.array([-0.3, -0.0501, -0.049, 0.0, 0.02, 0.0499, 0.051, 0.3])
    for x in (0.0, 1.9, 4.1, 6.0):
        origin = np.stack([np.full(8, x), 3 + across], axis=-1)
        wall = np.tile([[2.0, 3.0]], (8, 1)), np.tile([[4.0, 3.0]], (8, 1)), np.full(8, 0.05)
        check_ray("segment", origin, np.tile([direction], (8, 1)), *wall)


@pytest.mark.parametrize("direction", [(1.0, 0.0), (-1.0, 0.0), (0.0, 1.0), (0.0, -1.0)])
def test_a_ray_along_a_face_of_a_box(direction):
    offset = np.array([-0.6, -0.5001, -0.4999, -0.2, 0.0, 0.2, 0.4999, 0.5001])
    direction = np.array(direction)
    origin = 3 - 2 * direction + offset[:, None] * np.abs(direction[::-1])
    check_ray("box", origin, np.tile(direction, (8, 1)), np.full((8, 2), 3.0), np.full((8, 2), 0.5))


def test_a_ray_through_a_corner():
    angle = np.linspace(0, 2 * np.pi, 32, endpoint=False)
    corner = np.tile([[1, 1], [1, -1], [-1, 1], [-1, -1]], (8, 1)) * [0.5, 0.25]
    centre, half = np.full((32, 2), 3.0), np.tile([0.5, 0.25], (32, 1))
    origin = centre + corner - unit(angle) * 1.5
    check_ray("box", origin, unit(angle), centre, half)
    size = np.tile([4.0, 3.0], (32, 1))
    inside = np.random.default_rng(4).uniform(0.5, 2.5, (32, 2))
    aim = np.tile([[0, 0], [4, 0], [0, 3], [4, 3]], (8, 1)) - inside
    check_ray("border", inside, aim / np.linalg.norm(aim, axis=-1)[:, None], size)


def test_a_wall_of_no_length_is_a_disc():
    rng = np.random.default_rng(5)
    origin, centre = rng.uniform(0, 2, (CASES, 2)), rng.uniform(3, 5, (CASES, 2))
    aim = centre + rng.normal(0, 0.05, (CASES, 2)) - origin
    direction, thickness = aim / np.linalg.norm(aim, axis=-1)[:, None], np.full(CASES, 0.05)
    hit, _ = check_ray("segment", origin, direction, centre, centre, thickness)
    assert np.isinf(hit).any()
    assert np.isfinite(hit).any()


def test_bodies_behind_a_ray_are_missed():
    origin, direction = [[3.0, 3.0]], [[1.0, 0.0]]
    assert np.isinf(run("ray_disc", origin, direction, [[1.0, 3.0]], [0.5]))
    assert np.isinf(run("ray_box", origin, direction, [[1.0, 3.0]], [[0.5, 0.5]]))
    assert np.isinf(run("ray_segment", origin, direction, [[1.0, 2.0]], [[1.0, 4.0]], [0.05]))
