"""What a file says about saved lanes is looked at before it is believed."""

from collections.abc import Mapping
from typing import Any

from compressive_transformer.errors import UsageError
from compressive_transformer.storage import is_count


def damaged_state(name: str, allowed: str, given: object) -> UsageError:
    """For the caller to raise."""
    return UsageError(
        f"the saved lanes are damaged, {name} should be {allowed}, not {shown(given)[:40]!r}: resume from an "
        "older state, or start the lanes anew"
    )


def shown(given: object) -> str:
    """Fit for a line, whatever it is."""
    if isinstance(given, str):
        return given[:100] if given.isprintable() else repr(given)[:100]
    plain = (
        given is None or isinstance(given, bool | float) or (isinstance(given, int) and is_count(abs(given)))
    )
    return str(given) if plain else f"a value of type {type(given).__name__}"


def check_identity(state: object, identity: Mapping[str, int | str]) -> None:
    """Compares what the state belongs to with what is here.

    Raises:
        UsageError: They differ, or this is no state.
    """
    if not isinstance(state, dict):
        raise damaged_state("the state", "a table", state)
    for key, here in identity.items():
        if (saved := state.get(key)) != here or type(saved) is not type(here):
            raise UsageError(
                f"the saved lanes have {key} {shown(saved)} and these {here}: "
                "resume with the text, seed and lanes of the run"
            )


def check_count(value: Any, name: str) -> int:
    """The number, 0 or more.

    Raises:
        UsageError: It is something else.
    """
    if not is_count(value):
        raise damaged_state(name, "0 or more", value)
    return value


def check_list(value: Any, length: int | None, name: str) -> list[Any]:
    """The list, copied; of that length if one is given.

    Raises:
        UsageError: It is something else.
    """
    if not isinstance(value, list) or length not in (None, len(value)):
        raise damaged_state(name, "a list" if length is None else f"a list of {length}", value)
    return list(value)
