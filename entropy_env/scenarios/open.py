"""An empty arena: robots meet only each other."""

from __future__ import annotations

from entropy_env.scenarios.roaming import Roaming


class Open(Roaming):
    """Spawns and goals anywhere.

    A harder arena is larger: 8 x 6, 9 x 7, 10.5 x 8, 12 x 9 m.
    """

    name = "open"
    sizes = ((8.0, 6.0), (9.0, 7.0), (10.5, 8.0), (12.0, 9.0))
