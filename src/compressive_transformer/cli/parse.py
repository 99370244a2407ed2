"""Arguments by tyro, mistakes in one line."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import tyro

from compressive_transformer.errors import UsageError

T = TypeVar("T")


def parse(target: Callable[..., T], arguments: Sequence[str], *, verb: str, **options: Any) -> T:
    """What tyro makes of the arguments: help goes to the terminal, mistakes become a ``UsageError``."""
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.cli(target, args=list(arguments), prog=f"compressive {verb}", **options)
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        raise UsageError(
            f"{_first_paragraph(complaint.getvalue())} ('compressive {verb} --help' explains)"
        ) from None


def _first_paragraph(box: str) -> str:
    """The message inside tyro's frame, on one line."""
    framed = "╭" in box  # the title stands in the frame; plain terminals have a paragraph for it
    paragraphs = [""]
    for line in box.splitlines():
        inside = line.strip(" │")
        if inside.startswith(("─", "-----")):
            paragraphs.append("")
        elif not inside.startswith(("╭", "╰")):
            paragraphs[-1] += f" {inside}"
    message = paragraphs[0 if framed or len(paragraphs) == 1 else 1]
    message = re.sub(r"^Error parsing \w+: ", "", " ".join(message.split()))
    # Of a setting that may be left out, tyro tells all its attempts.
    refused = re.match(r"Error parsing (\S+): no type matching \{None\}\|(\w+) .* from \[(.*?)\]", message)
    return f"{refused[1]} {refused[3]} is not allowed; give {refused[2]}" if refused else message
