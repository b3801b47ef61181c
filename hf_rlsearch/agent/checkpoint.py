"""Loads and saves weights as safetensors with a JSON card in the header; nothing is unpickled."""

from __future__ import annotations

import json
import re
import reprlib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import lru_cache
from pathlib import Path
from typing import Any, get_origin, get_type_hints

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from hf_rlsearch.agent.decision_head import DecisionHead
from hf_rlsearch.agent.network import NetworkConfig, Predictor
from hf_rlsearch.agent.stop_rule import stop_rule_shapes
from hf_rlsearch.errors import WeightsError, describe
from hf_rlsearch.observation.observation import OBSERVATION_FORMAT

BUNDLED = ("rl-v5",)
"""Names of the weights that ship with the package, the default first."""

AGENT_FILE = "agent.safetensors"
"""Name of the weights in the folder of an agent, here and on the Hugging Face Hub."""

_EXPECTED = (
    f"Give one of {list(BUNDLED)}, the path of a .safetensors file or of a folder with {AGENT_FILE!r}, or a repository "
    "of the Hub."
)
_REPOSITORY = re.compile(r"[\w-][\w.-]*/(?!.*\.safetensors$)[\w-][\w.-]*")

# Far above the card of the bundled weights: 2,000 characters, 4 levels.
_LONGEST_CARD, _DEEPEST_CARD = 1_000_000, 20
_PART = re.compile(r"(predictor\.(?:0|[1-9][0-9]{0,2})|head|stop)\.")


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
            if len(text) > _LONGEST_CARD:
                raise ValueError(f"it has {len(text):,} characters, at most {_LONGEST_CARD:,} are read")
            data = json.loads(text)
            if _depth(data) > _DEEPEST_CARD:
                raise ValueError(f"it is nested deeper than {_DEEPEST_CARD} levels")
            unknown = set(data) - {f.name for f in fields(cls)}
            if unknown:
                raise WeightsError(
                    f"{source} has a card with unknown keys {reprlib.repr(sorted(unknown))}; install a newer "
                    "hf_rlsearch."
                )
            card = cls(**data)
            for name, hint in get_type_hints(cls).items():
                value, kind = getattr(card, name), get_origin(hint) or hint
                if not isinstance(value, kind) or isinstance(value, bool):
                    raise TypeError(f"{name} is {reprlib.repr(value)}, expected a value of type {kind.__name__}")
            return card
        except WeightsError:
            raise
        except (TypeError, ValueError, RecursionError) as error:  # ValueError also for numbers of thousands of digits
            raise WeightsError(
                f"{source} has no readable card ({error}). Expected weights saved by hf_rlsearch."
            ) from error

    def to_json(self) -> str:
        """The card as indented JSON with sorted keys."""
        return json.dumps(asdict(self), indent=2, sort_keys=True)


def resolve(weights: str | Path | None) -> Path:
    """The file of bundled weights by name, of an agent's folder, of the Hugging Face Hub, or a path as it is.

    A text such as "me/my-agent" that is neither file nor folder names a repository of the Hub, whose `AGENT_FILE` is
    kept in the cache of huggingface_hub.

    Raises:
        WeightsError: There is no such file; the message lists the bundled names.
    """
    name = str(weights) if weights is not None else BUNDLED[0]
    path = Path(__file__).parent / "weights" / f"{name}.safetensors" if name in BUNDLED else Path(name)
    if path.is_dir():
        path = path / AGENT_FILE
    if not path.exists() and _REPOSITORY.fullmatch(name):
        return _download(name)
    if not path.is_file():
        raise WeightsError(f"there are no weights {name!r}. {_EXPECTED}")
    return path


def _download(repository: str) -> Path:
    """The file of an agent on the Hugging Face Hub."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError

    try:
        return Path(hf_hub_download(repository, AGENT_FILE))
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise WeightsError(
            f"there are no weights {repository!r} here, and the Hugging Face Hub gave no {AGENT_FILE!r}: "
            f"{describe(error)} {_EXPECTED}"
        ) from error


def load_weights(weights: str | Path | None = None, *, without: str = "") -> tuple[dict[str, Tensor], Card]:
    """Reads weights and card by a bundled name or a path; None stands for the default.

    Args:
        weights: A bundled name or a path.
        without: A part such as "stop" that is not read, as it is going to be replaced.

    Raises:
        WeightsError: Missing, corrupted, foreign, of another observation format, with numbers that are not finite, or
            not of the shapes that the card describes; the latter before any tensor is read.
    """
    path = resolve(weights)
    try:
        with safe_open(path, framework="pt") as file:
            card = _read_card(file.metadata() or {}, path.name)
            names = [key for key in file.keys() if not (without and key.startswith(f"{without}."))]  # noqa: SIM118
            slices = {key: file.get_slice(key) for key in names}
            check_shapes({key: tuple(part.get_shape()) for key, part in slices.items()}, card)
            if other := sorted(key for key, part in slices.items() if part.get_dtype() != "F32"):
                raise _misfit(card, f"{reprlib.repr(other[0])} is no tensor of float32")
            tensors = {key: file.get_tensor(key) for key in slices}
    except (SafetensorError, OSError) as error:
        raise WeightsError(
            f"{path.name!r} is not a readable safetensors file ({error}). Download or train it again."
        ) from error
    if broken := sorted(key for key, tensor in tensors.items() if not tensor.isfinite().all()):
        raise WeightsError(
            f"{path.name!r} holds numbers that are not finite, in {reprlib.repr(broken[0])}: the training has diverged "
            f"or the file is damaged. Train or download it again, or use the bundled weights={BUNDLED[0]!r}."
        )
    return tensors, card


def learnt_spaces(card: Card) -> list[frozenset[str]]:
    """The names of the hyperparameters of each space that the weights have learnt further from; none if they have not.

    A card can hold anything, so what is no list of texts is left out.
    """
    own = card.training.get("own_studies")
    spaces = own.get("spaces") if isinstance(own, dict) else None
    found = [names for names in spaces if isinstance(names, list)] if isinstance(spaces, list) else []
    return [frozenset(name for name in names if isinstance(name, str)) for names in found]


def parts(names: Iterable[str]) -> list[str]:
    """The parts that some weights hold by the names of their tensors, of "predictor.0" ... and "head" and "stop"."""
    found = {match[1] for match in map(_PART.match, names) if match}
    return sorted(found, key=lambda part: (len(part), part))


def check_shapes(shapes: Mapping[str, tuple[int, ...]], card: Card) -> NetworkConfig:
    """Compares the shapes of all parts with the networks that the card describes, none of which is built.

    Raises:
        WeightsError: A size in the card cannot be, or a tensor is missing, unknown or of another shape.
    """
    try:
        config = NetworkConfig(**card.network)
    except (TypeError, ValueError) as error:
        raise _misfit(card, str(error)) from error
    for part in parts(shapes):
        prefix = f"{part}."
        expected = stop_rule_shapes(shapes) if part == "stop" else _network_shapes(None if part == "head" else config)
        wanted = {(name if part == "stop" else prefix + name): shape for name, shape in expected.items()}
        found = {name: shape for name, shape in shapes.items() if name.startswith(prefix)}
        for name in sorted(wanted.keys() | found.keys()):
            if wanted.get(name) != found.get(name):
                got, known = found.get(name, "missing"), wanted.get(name, "no such tensor")
                raise _misfit(card, f"{reprlib.repr(name)} is {got}, expected {known}")
    return config


@lru_cache(maxsize=8)
def _network_shapes(config: NetworkConfig | None) -> dict[str, tuple[int, ...]]:
    """The shapes of a predictor's tensors by name, or of a decision head's; no memory is used for them."""
    with torch.device("meta"):
        network = DecisionHead() if config is None else Predictor(config)
    return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}


def _read_card(metadata: Mapping[str, str], name: str) -> Card:
    if "card" not in metadata:
        raise WeightsError(
            f"{name!r} holds no weights of hf_rlsearch: its header has no card, only {reprlib.repr(sorted(metadata))}."
        )
    card = Card.from_json(metadata["card"], repr(name))
    if card.observation_format != OBSERVATION_FORMAT:
        raise WeightsError(
            f"{name!r} has observation format {card.observation_format}, this version of hf_rlsearch reads "
            f"{OBSERVATION_FORMAT}. Use the bundled weights={BUNDLED[0]!r}, or the version that wrote the file."
        )
    return card


def _misfit(card: Card, reason: str) -> WeightsError:
    return WeightsError(
        f"weights {reprlib.repr(card.name)} do not fit the network that their card describes: {reason}. Use the "
        "bundled weights, or the version of hf_rlsearch that wrote the file."
    )


def _depth(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + max(map(_depth, inner), default=0)


def save_weights(path: Path, tensors: dict[str, Tensor], card: Card) -> None:
    """Writes weights with their card in the header, and the card again as JSON beside them for people to read."""
    save_file({k: v.contiguous() for k, v in tensors.items()}, path, metadata={"card": card.to_json()})
    path.with_suffix(".json").write_text(card.to_json() + "\n")
