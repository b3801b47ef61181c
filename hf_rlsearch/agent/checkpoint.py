"""Loads and saves weights as safetensors with a JSON card in the header; nothing is unpickled."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from hf_rlsearch.errors import WeightsError
from hf_rlsearch.observation.observation import OBSERVATION_FORMAT

BUNDLED = ("rl-v2",)
"""Names of the weights that ship with the package, the default first."""


@dataclass(frozen=True)
class Card:
    """Description of a weights file; unknown keys are refused, so that no old version misreads a new file.

    Attributes:
        name: Stem of the file name.
        observation_format: Of the arrays that the weights were trained on, see `OBSERVATION_FORMAT`.
        network: Sizes, the fields of `NetworkConfig`.
        prior: Version of the prior.
        training: Settings and seeds of every stage.
        gates: Comparisons that decided which parts ship, with figures.
        versions: Of the libraries used in training.
        limits: Where the weights should not be trusted.
    """

    name: str
    observation_format: int
    network: dict[str, int]
    prior: str
    training: dict[str, Any] = field(default_factory=dict)
    gates: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    limits: str = ""

    @classmethod
    def from_json(cls, text: str, source: str) -> Card:
        """Reads a card.

        Raises:
            WeightsError: The text is no card, or has keys that this version does not know.
        """
        try:
            data = json.loads(text)
            unknown = set(data) - {f.name for f in fields(cls)}
            if unknown:
                raise WeightsError(
                    f"{source} has a card with unknown keys {sorted(unknown)}; install a newer hf_rlsearch."
                )
            return cls(**data)
        except (TypeError, json.JSONDecodeError) as error:
            raise WeightsError(
                f"{source} has no readable card ({error}). Expected weights saved by hf_rlsearch."
            ) from error

    def to_json(self) -> str:
        """The card as indented JSON with sorted keys."""
        return json.dumps(asdict(self), indent=2, sort_keys=True)


def resolve(weights: str | Path | None) -> Path:
    """The file of bundled weights by name, or a path as it is.

    Raises:
        WeightsError: There is no such file; the message lists the bundled names.
    """
    name = str(weights) if weights is not None else BUNDLED[0]
    path = Path(__file__).parent / "weights" / f"{name}.safetensors" if name in BUNDLED else Path(name)
    if not path.is_file():
        raise WeightsError(
            f"there are no weights {name!r}. Give one of {list(BUNDLED)} or the path of a .safetensors file."
        )
    return path


def load_weights(weights: str | Path | None = None) -> tuple[dict[str, Tensor], Card]:
    """Reads weights and card by a bundled name or a path; None stands for the default.

    Raises:
        WeightsError: Missing, corrupted, foreign, or of another observation format.
    """
    path = resolve(weights)
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, OSError) as error:
        raise WeightsError(
            f"{path.name!r} is not a readable safetensors file ({error}). Download or train it again."
        ) from error
    if "card" not in metadata:
        raise WeightsError(
            f"{path.name!r} holds no weights of hf_rlsearch: its header has no card, only {sorted(metadata)}."
        )
    card = Card.from_json(metadata["card"], repr(path.name))
    if card.observation_format != OBSERVATION_FORMAT:
        raise WeightsError(
            f"{path.name!r} has observation format {card.observation_format}, this version of hf_rlsearch reads "
            f"{OBSERVATION_FORMAT}. Use the bundled weights={BUNDLED[0]!r}, or the version that wrote the file."
        )
    return tensors, card


def save_weights(path: Path, tensors: dict[str, Tensor], card: Card) -> None:
    """Writes weights with their card in the header, and the card again as JSON beside them for people to read."""
    save_file({k: v.contiguous() for k, v in tensors.items()}, path, metadata={"card": card.to_json()})
    path.with_suffix(".json").write_text(card.to_json() + "\n")
