"""Casts plain values to type annotations, without guessing."""

import enum
import types
from typing import Any, Literal, Union, get_args, get_origin

from hf_rlsearch._validation import is_number


def cast_to(hint: Any, value: Any) -> Any:
    """Casts a value to a type annotation without guessing.

    Args:
        hint: bool, int, float, str, an Enum, a union of these, or anything else (then the value is taken as it is).
        value: A plain value or a numpy scalar; text is parsed where a number or truth value is wanted.

    Raises:
        TypeError, ValueError: The value does not fit, with the reason.
    """
    if hasattr(value, "item") and not isinstance(value, (str, bytes)) and getattr(value, "size", 1) == 1:
        value = value.item()
    if get_origin(hint) in (Union, types.UnionType):
        return _cast_to_union(get_args(hint), value)
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return value if isinstance(value, hint) else hint(value)
    caster = _CASTERS.get(hint)
    return value if caster is None else caster(value)


def _cast_to_union(members: tuple[Any, ...], value: Any) -> Any:
    if value is None:
        if type(None) in members:
            return None
        raise TypeError("None is not allowed")
    enums = [m for m in members if isinstance(m, type) and issubclass(m, enum.Enum)]
    if enums and isinstance(value, (str, *enums)):
        return enums[0](value)
    plain_members = [m for m in members if m is not type(None) and m not in enums]
    for member in plain_members:
        if isinstance(member, type) and type(value) is member:
            return value
    # Text fits a str member only as a last resort: ``float | str`` and "0.1" mean the number.
    for member in sorted(plain_members, key=lambda m: m is str):
        if get_origin(member) is Literal and type(value) in map(type, get_args(member)):
            return value  # which of them, its owner checks: peft names patterns there
        if member not in _CASTERS:
            origin = get_origin(member) or member
            if isinstance(origin, type) and isinstance(value, origin):
                return value
            continue
        try:
            return _CASTERS[member](value)
        except (TypeError, ValueError):
            continue
    raise TypeError(f"{type(value).__name__} does not fit")


def _to_bool(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.strip().lower() in ("true", "yes", "on", "1"):
        return True
    if isinstance(value, str) and value.strip().lower() in ("false", "no", "off", "0"):
        return False
    if is_number(value) and value in (0, 1):
        return bool(value)
    raise ValueError("expected True or False")


def _to_int(value: Any) -> int:
    if isinstance(value, bool):
        raise TypeError("expected a whole number, not a truth value")
    if isinstance(value, str):
        return int(value)
    if is_number(value) and float(value).is_integer():
        return int(value)
    raise ValueError("expected a whole number")


def _to_float(value: Any) -> float | int:
    if not (is_number(value) or isinstance(value, str)):
        raise TypeError("expected a number")
    # An int stays one: warmup_steps=50 are steps, 0.5 is a fraction.
    return value if isinstance(value, int) else float(value)


def _to_str(value: Any) -> str:
    if isinstance(value, str):
        return value
    raise TypeError("expected text")


_CASTERS: dict[Any, Any] = {bool: _to_bool, int: _to_int, float: _to_float, str: _to_str}


def describe(hint: Any) -> str:
    """A type annotation as people write it."""
    text = getattr(hint, "__name__", None) if isinstance(hint, type) else None
    return text or str(hint).replace("typing.", "")
