"""`entropy_env.geometry` for compiled loops: scalars in, scalars out, float32 throughout.

A literal such as 0.5 is a double and would make one of everything it meets, hence the named constants.
"""

from __future__ import annotations

import math

import numpy as np

from entropy_env.engines.numba_engine.compilation import inlined

ZERO, HALF, ONE, TWO = np.float32(0), np.float32(0.5), np.float32(1), np.float32(2)
PI, TURN = np.float32(math.pi), np.float32(2 * math.pi)
INFINITE = np.float32(np.inf)
TINY = np.float32(1e-12)
FAR = np.float32(1e9)
QUARTERS_PER_RAD = np.float32(2 / math.pi)
QUARTER = tuple(np.float32(part) for part in (1.5703125, 4.837512969970703e-4, 7.54978995489188e-8))  # of a turn, rad
SIN = tuple(np.float32(term) for term in (-1.6666654611e-1, 8.3321608736e-3, -1.9515295891e-4))
COS = tuple(np.float32(term) for term in (4.166664568298827e-2, -1.388731625493765e-3, 2.443315711809948e-5))
SINC = tuple(np.float32(1 / math.factorial(n)) for n in (3, 5, 7))
ATAN_BEND = np.float32(0.273)
ATAN_ERROR = np.float32(0.0039)  # rad, of `nearly_atan2`


@inlined
def clipped(motor):
    """To [-1, 1]; what is not finite is zero."""
    return min(max(motor, -ONE), ONE) if math.isfinite(motor) else ZERO


@inlined
def wrap_angle(angle):
    """To (-pi, pi]."""
    if -PI < angle <= PI:
        return angle
    wrapped = angle - TURN * np.float32(math.ceil((angle - PI) / TURN))
    return PI if wrapped <= -PI else wrapped


@inlined
def cos_sin(angle):
    """Cosine and sine to a few units of the last place (polynomials of Cephes sinf.c, Moshier 1992): half the time of
    two library calls."""
    quarters = int(angle * QUARTERS_PER_RAD + math.copysign(HALF, angle))
    turns = np.float32(quarters)
    rest = ((angle - turns * QUARTER[0]) - turns * QUARTER[1]) - turns * QUARTER[2]
    square = rest * rest
    sin = rest + rest * square * (SIN[0] + square * (SIN[1] + square * SIN[2]))
    cos = ONE - HALF * square + square * square * (COS[0] + square * (COS[1] + square * COS[2]))
    if quarters & 1:
        cos, sin = -sin, cos
    return (-cos, -sin) if quarters & 2 else (cos, sin)


@inlined
def sinc(angle):
    """sin(angle) / angle, near zero by its series."""
    square = angle * angle
    if square < HALF * HALF:
        return ONE - square * (SINC[0] - square * (SINC[1] - square * SINC[2]))
    return cos_sin(angle)[1] / angle


@inlined
def nearly_atan2(y, x):
    """rad, to `ATAN_ERROR` (Rajan et al. 2006, equation 7)."""
    ax, ay = abs(x), abs(y)
    long, short = max(ax, ay), min(ax, ay)
    ratio = short / max(long, TINY)
    angle = ratio * (PI / np.float32(4) + ATAN_BEND * (ONE - ratio))
    angle = PI / TWO - angle if ay > ax else angle
    angle = PI - angle if x < ZERO else angle
    return -angle if y < ZERO else angle


@inlined
def at_least_asin(sine):
    """rad, an upper bound for a sine in [0, 1]: all terms of its series beyond the first, put into the third."""
    return sine + (PI / TWO - ONE) * sine * sine * sine


@inlined
def towards(dx, dy, fallback_x, fallback_y):
    """Length and direction; the fallback is the direction of a vanishing vector."""
    square = dx * dx + dy * dy
    if square < TINY:
        return ZERO, fallback_x, fallback_y
    length = math.sqrt(square)
    return length, dx / length, dy / length


@inlined
def separation_disc(x, y, disc):
    """Gap and normal from a point to a disc (3,)."""
    length, nx, ny = towards(disc[0] - x, disc[1] - y, ONE, ZERO)
    return length - disc[2], nx, ny


@inlined
def nearest_on_segment(x, y, ends):
    """The offset from a point to the nearest point of a segment (2, 2)."""
    ax, ay = ends[1, 0] - ends[0, 0], ends[1, 1] - ends[0, 1]
    px, py = x - ends[0, 0], y - ends[0, 1]
    along = min(max((px * ax + py * ay) / max(ax * ax + ay * ay, TINY), ZERO), ONE)
    return along * ax - px, along * ay - py


@inlined
def separation_capsule(x, y, ends, half_thickness):
    """Gap and normal from a point to a segment (2, 2) thickened (`geometry.separation_capsule`)."""
    _, tx, ty = towards(ends[1, 0] - ends[0, 0], ends[1, 1] - ends[0, 1], ZERO, -ONE)
    sx, sy, ex, ey = x - ends[0, 0], y - ends[0, 1], x - ends[1, 0], y - ends[1, 1]
    beyond_start, beyond_end = -(sx * tx + sy * ty), ex * tx + ey * ty
    px, py = (sx, sy) if beyond_start > beyond_end else (ex, ey)  # from the nearer end, which rounds least
    if max(beyond_start, beyond_end) >= ZERO:
        length, nx, ny = towards(-px, -py, -ty, tx)
        return length - half_thickness, nx, ny
    across = tx * py - ty * px
    side = ONE if across > ZERO else -ONE
    return across * side - half_thickness, ty * side, -tx * side


@inlined
def separation_box(x, y, box):
    """Gap and normal from a point to a solid box (4,); from inside, through the nearest face."""
    dx, dy = box[0] - x, box[1] - y
    over_x, over_y = abs(dx) - box[2], abs(dy) - box[3]
    sign_x = -ONE if dx < ZERO else ONE
    sign_y = -ONE if dy < ZERO else ONE
    if over_x > over_y:
        face_x, face_y = sign_x, ZERO
    else:
        face_x, face_y = ZERO, sign_y
    if max(over_x, over_y) <= ZERO:
        return max(over_x, over_y), face_x, face_y
    return towards(max(over_x, ZERO) * sign_x, max(over_y, ZERO) * sign_y, face_x, face_y)


@inlined
def separation_fixed(maps, e, body, x, y, half_thickness):
    """Gap and normal from a point to a fixed body of world e: 0 to 3 the border, then walls, boxes and discs.

    Empty slots are infinitely far away.
    """
    if body == 0:
        return x, -ONE, ZERO
    if body == 1:
        return maps.size[e, 0] - x, ONE, ZERO
    if body == 2:
        return y, ZERO, -ONE
    if body == 3:
        return maps.size[e, 1] - y, ZERO, ONE
    i = body - 4
    if i < maps.walls.shape[1]:
        if maps.wall_mask[e, i]:
            return separation_capsule(x, y, maps.walls[e, i], half_thickness)
        return INFINITE, ONE, ZERO
    i -= maps.walls.shape[1]
    if i < maps.boxes.shape[1]:
        if maps.box_mask[e, i]:
            return separation_box(x, y, maps.boxes[e, i])
        return INFINITE, ONE, ZERO
    i -= maps.boxes.shape[1]
    if maps.disc_mask[e, i]:
        return separation_disc(x, y, maps.discs[e, i])
    return INFINITE, ONE, ZERO


@inlined
def ray_disc(ox, oy, cos, sin, radius):
    """Along a unit ray (cos, sin) from a point to a disc whose centre is offset by ox, oy."""
    along = cos * ox + sin * oy
    across = cos * oy - sin * ox
    square = radius * radius - across * across
    half_chord = np.float32(math.sqrt(max(square, ZERO)))
    return along - half_chord if (square >= ZERO) & (along + half_chord >= ZERO) else INFINITE  # no branch: rays differ


@inlined
def ray_segment(along, across, length, ahead, left, cos, sin, half_thickness):
    """Along a unit ray to a segment thickened, from a point `along` and `across` it, m from its start and its line.

    length: m. ahead, left: the segment's direction, in the frame of the ray (cos, sin).
    """
    beyond = abs(across) - half_thickness  # the strip between the two sides
    step_along, step_across = cos * ahead + sin * left, ahead * sin - left * cos
    reach, entry = ZERO, along
    if beyond >= ZERO:
        closing = -step_across if across > ZERO else step_across
        if closing <= ZERO:
            return INFINITE
        reach = beyond / closing
        entry = along + reach * step_along
    if ZERO <= entry <= length:
        return reach
    end = ZERO if entry < ZERO else length  # past its sides, there is the round end
    return ray_disc(end - along, -across, step_along, step_across, half_thickness)


@inlined
def inverse(component):
    """1 / component, finite: a parallel ray meets its slab very far away."""
    if abs(component) < ONE / FAR:
        return math.copysign(FAR, component)
    return ONE / component


@inlined
def ray_box(x, y, cos, sin, box):
    """Along a unit ray from a point to a solid box (4,) (slab method, Kay & Kajiya 1986)."""
    ix, iy = inverse(cos), inverse(sin)
    mx, my = (box[0] - x) * ix, (box[1] - y) * iy
    hx, hy = box[2] * abs(ix), box[3] * abs(iy)
    enter, leave = max(mx - hx, my - hy), min(mx + hx, my + hy)
    return enter if enter <= leave and leave >= ZERO else INFINITE
