"""Provides two tiny pretrained checkpoints and two real text data sets, for a first search.

Both ship with the package, so that nothing here needs a network.
"""

from pathlib import Path

from hf_rlsearch._validation import did_you_mean
from hf_rlsearch.embedded.data import TOPICS, classification_dataset, language_modeling_dataset
from hf_rlsearch.errors import ArgumentsError

__all__ = ["CHECKPOINTS", "TOPICS", "classification_dataset", "language_modeling_dataset", "path"]

CHECKPOINTS: tuple[str, ...] = ("bert-tiny", "gpt2-tiny")


def path(name: str) -> str:
    """Returns the folder of an embedded checkpoint, for ``from_pretrained``.

    Args:
        name: ``"bert-tiny"`` (masked language model) or ``"gpt2-tiny"`` (causal language model).

    Returns:
        The absolute path of a folder with configuration, tokenizer, weights (safetensors) and a card.

    Raises:
        ArgumentsError: There is no embedded checkpoint of that name.
    """
    if name not in CHECKPOINTS:
        hint = did_you_mean(name, CHECKPOINTS, cutoff=0.3)
        raise ArgumentsError(f"no embedded checkpoint is called {name!r}; there are {list(CHECKPOINTS)}.{hint}")
    return str(Path(__file__).parent / name)
