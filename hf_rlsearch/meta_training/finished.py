"""Files of what meta-training has finished: each says from what it was made, and is refused for anything else."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor


def digest(tensors: Mapping[str, Tensor]) -> str:
    """A text that is the same for equal tensors of equal names only."""
    found = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        found.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()[:16]


def save_finished(path: Path, tensors: Mapping[str, Tensor], made_from: Mapping[str, Any], **more: str) -> None:
    """Writes tensors with the settings and inputs that they were made from; the file is written beside, then moved.

    Args:
        path: A safetensors file.
        tensors: By name.
        made_from: Plain data.
        more: Further texts of the header.
    """
    draft = path.with_suffix(".partial")
    header = {"made_from": json.dumps(made_from), **more}
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, draft, metadata=header)
    draft.replace(path)


def load_finished(path: Path, made_from: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Reads tensors and the texts of the header.

    Raises:
        ValueError: The file was made from something else.
    """
    with safe_open(path, framework="pt") as file:
        header = file.metadata() or {}
    _check(path, header.get("made_from"), made_from)
    return load_file(path), header


def compare_once(path: Path, made_from: Mapping[str, Any], compare: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The figures of a comparison, which are kept in a JSON file; a run that continues reads them there.

    Raises:
        ValueError: The file compares something else.
    """
    if not path.exists():
        path.write_text(json.dumps({"made_from": json.dumps(made_from), "figures": compare()}, indent=2))
    kept = json.loads(path.read_text())
    _check(path, kept.get("made_from"), made_from)
    figures: dict[str, Any] = kept["figures"]
    return figures


def _check(path: Path, found: str | None, made_from: Mapping[str, Any]) -> None:
    if found != json.dumps(made_from):
        raise ValueError(f"{path} has other settings or inputs: {found}. Choose another folder or delete it.")
