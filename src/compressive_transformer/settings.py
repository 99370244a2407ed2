"""Settings out of JSON: frozen dataclasses again, with every name and type checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, TypeVar, get_type_hints

from typeguard import CollectionCheckStrategy, TypeCheckError, check_type

from compressive_transformer.errors import UsageError

T = TypeVar("T")
MAX_NUMBER = 1 << 63
"""Numbers below it fit into int64."""


def from_plain(kind: type[T], values: Mapping[str, Any], where: str) -> T:
    """A dataclass from what ``json.loads`` gives for ``asdict`` of it; what is missing has its default.

    Args:
        kind: the dataclass; its fields may be dataclasses.
        values: by name; lists stand for tuples.
        where: what to call the place in errors.

    Raises:
        UsageError: a name is unknown, a value has another type, or the dataclass refuses it.
    """
    hints = get_type_hints(kind)
    names = {field.name for field in fields(kind)}  # pyright: ignore[reportArgumentType]
    if unknown := sorted(set(values) - names):
        raise UsageError(
            f"{where} does not fit this version: it has {_short(', '.join(map(str, unknown)))}; use the "
            "version that made it"
        )
    required = [
        field.name
        for field in fields(kind)  # pyright: ignore[reportArgumentType]
        if field.default is MISSING and field.default_factory is MISSING
    ]
    if lacks := [name for name in required if name not in values]:
        raise UsageError(f"{where} does not fit this version: it lacks {', '.join(lacks)}; restore it")
    settings = {}
    for name, value in values.items():
        hint = hints[name]
        if is_dataclass(hint) and isinstance(hint, type) and isinstance(value, Mapping):
            value = from_plain(hint, value, f"{where}, {name}")
        value = _tuples(value)
        try:
            check_type(value, hint, collection_check_strategy=CollectionCheckStrategy.ALL_ITEMS)
        except TypeCheckError as error:
            raise UsageError(f"{where}: {name} {_short(repr(value))} {_reason(error)}; restore it") from None
        for part in value if isinstance(value, tuple) else (value,):
            if isinstance(part, bool) and hint is not bool:
                raise UsageError(f"{where}: {name} {part} is a bool; restore it")
            if isinstance(part, int) and not -MAX_NUMBER < part < MAX_NUMBER:
                raise UsageError(f"{where}: {name} {_short(str(part))} is 2^63 or more; restore it")
        settings[name] = value
    return kind(**settings)


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _short(text: str) -> str:
    return text if len(text) <= 100 else f"{text[:100]} ..."


def _reason(error: TypeCheckError) -> str:
    return " ".join(str(error).split()).partition(" ")[2]
