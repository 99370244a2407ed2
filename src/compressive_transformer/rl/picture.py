"""Rooms and what lies in them, drawn from above."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Look = tuple[tuple[int, int, int], str]
"""Colour and shape."""
WHITE, GREY, BLACK, BLUE = (250, 250, 250), (150, 150, 150), (20, 20, 20), (120, 170, 240)
SHAPES = ("disc", "diamond", "square")
AGENT: Look = (BLACK, "arrow")


def looks(what: int, objects: int) -> Look:
    """Of one object among so many: neighbours differ in shape, and colours go once around."""
    hue = what / objects * 2 * np.pi
    red, green, blue = (int(130 + 110 * np.cos(hue - turn)) for turn in (0, 2.1, 4.2))
    return (red, green, blue), SHAPES[what % len(SHAPES)]


def picture(
    width: int,
    height: int,
    cell: int,
    things: Sequence[tuple[int, int, Look]] = (),
    *,
    inside: bool = False,
    pad: bool = False,
) -> Array:
    """A room in its walls, the last row uppermost.

    Args:
        width, height: cells of the room.
        cell: side of a cell in pixels.
        things: column, row and look of each.
        inside: whether there is a room, or only its walls' grey.
        pad: whether the last row is one.

    Returns:
        uint8 [(height + 2) cell, (width + 2) cell, 3].
    """
    grid = np.full((height + 2, width + 2, 3), GREY, np.uint8)
    if inside:
        grid[1:-1, 1:-1] = WHITE
    if pad:
        grid[1, 1:-1] = BLUE
    drawn = grid.repeat(cell, axis=0).repeat(cell, axis=1)
    for column, row, (colour, shape) in things:
        top, left = (height - row) * cell, (column + 1) * cell
        drawn[top : top + cell, left : left + cell][_cells(shape, cell)] = colour
    return drawn


def _cells(shape: str, cell: int) -> Array:
    """bool [cell, cell]: what of a cell a shape covers; the arrow points up."""
    down, across = np.mgrid[0:cell, 0:cell] / (cell - 1) * 2 - 1
    return {
        "disc": down**2 + across**2 <= 0.8,
        "diamond": abs(down) + abs(across) <= 1,
        "square": np.maximum(abs(down), abs(across)) <= 0.75,
        "arrow": (abs(across) <= (down + 1) / 2) & (down <= 0.8),
    }[shape]
