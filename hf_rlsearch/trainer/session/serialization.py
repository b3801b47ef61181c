"""Values as plain data, as a storage and other ranks take them and as people read them."""

import dataclasses
import enum
import hashlib
import json
import types
from collections.abc import Mapping
from typing import Any


def hash_of(value: Any) -> str:
    """A short hash of plain data."""
    return hashlib.sha256(dumps(value).encode()).hexdigest()[:16]


def words(text: str) -> frozenset[str]:
    """The words of a text, for tables that would be long lists."""
    return frozenset(text.split())


def plain(value: Any) -> Any:
    """The value as JSON can hold it: enums by value, functions by name, numpy scalars as numbers, the rest as text."""
    if isinstance(value, enum.Enum):
        return plain(value.value)
    if isinstance(value, (type, types.FunctionType)):
        return f"{value.__module__}.{value.__qualname__}"  # as text a function has its address
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item) for item in value]
    if hasattr(value, "item") and getattr(value, "size", 1) == 1:
        return plain(value.item())
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return plain({f.name: getattr(value, f.name) for f in dataclasses.fields(value)})
    if hasattr(value, "to_dict"):
        return plain(value.to_dict())
    return str(value)


def as_text(params: Mapping[str, Any]) -> str:
    """Params as one short line, floats with three digits."""
    return " ".join(
        f"{name}={value:.3g}" if isinstance(value, float) else f"{name}={value}" for name, value in params.items()
    )


def dumps(value: Any) -> str:
    """Canonical JSON text, for comparing and for storage attributes."""
    return json.dumps(plain(value), sort_keys=True)
