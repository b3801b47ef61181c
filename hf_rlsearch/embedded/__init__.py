"""Provides two tiny pretrained checkpoints and two real text data sets, for a first search.

All ship with the package, so that nothing here needs a network. The data sets are made from ``docstrings.jsonl.gz``,
the short docstrings of the standard library of Python 3.11, so the rows are the same whatever Python runs. Both keep
the same fifth of the docstrings for validation; the checkpoints were never trained on that fifth.
"""

import functools
import gzip
import json
import random
import re
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from hf_rlsearch._validation import did_you_mean
from hf_rlsearch.errors import ArgumentsError

if TYPE_CHECKING:
    from datasets import DatasetDict

__all__ = ["CHECKPOINTS", "TOPICS", "classification_dataset", "language_modeling_dataset", "path"]

CHECKPOINTS: tuple[str, ...] = ("bert-tiny", "gpt2-tiny")
TOPICS: tuple[str, ...] = ("internet", "concurrency", "files", "debugging", "language", "numbers")

_Row = TypeVar("_Row")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z])")
_PLAIN_WORD = re.compile(r"[A-Za-z][a-z'-]*[,;:.!?]?$")


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


def held_out(text: str) -> bool:
    """Returns whether a docstring belongs to the fifth that is kept for validation, by a checksum of its text."""
    return zlib.crc32(text.encode()) % 5 == 0


@functools.cache
def docstrings() -> dict[str | None, list[str]]:
    """Reads the docstrings, without indentation, by topic of their module; None is the key of modules without one."""
    with gzip.open(Path(__file__).with_name("docstrings.jsonl.gz"), "rt", encoding="utf-8") as lines:
        return {row["topic"]: row["docstrings"] for row in map(json.loads, lines)}


def sentences(text: str) -> list[str]:
    """Splits a docstring into the sentences that read as English prose, of 6 to 40 words on one line each.

    Examples, signatures, tables and lists of options are left out.
    """
    paragraphs = (" ".join(paragraph.split()) for paragraph in re.split(r"\n\s*\n", text) if ">>>" not in paragraph)
    return [sentence for paragraph in paragraphs for sentence in _SENTENCE_END.split(paragraph) if _is_prose(sentence)]


def classification_dataset(seed: int = 0, n_train: int = 2000, n_validation: int = 500) -> "DatasetDict":
    """Makes a text classification data set of sentences and the topic of the standard library that they are about.

    Six classes (``TOPICS``); the largest has less than a third of the rows. Sentences that occur under two topics are
    left out, and no docstring has sentences in both splits.

    Args:
        seed: Decides which sentences are taken, and their order.
        n_train: Rows of the split ``train``, at most 3,095.
        n_validation: Rows of the split ``validation``, at most 745.

    Returns:
        A ``DatasetDict`` of ``train`` and ``validation`` with the columns ``text`` and ``label`` (a ``ClassLabel``).

    Raises:
        ArgumentsError: A split has fewer rows than that.
    """
    from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

    features = Features({"text": Value("string"), "label": ClassLabel(names=list(TOPICS))})
    splits = {}
    for split, rows in _sample_splits(_labelled_sentences(), seed, n_train, n_validation):
        columns = {"text": [text for text, _ in rows], "label": [TOPICS.index(topic) for _, topic in rows]}
        splits[split] = Dataset.from_dict(columns, features=features)
    return DatasetDict(splits)


def language_modeling_dataset(seed: int = 0, n_train: int = 2000, n_validation: int = 300) -> "DatasetDict":
    """Makes a language modeling data set with one docstring of at least eight words per row.

    Args:
        seed: Decides which docstrings are taken, and their order.
        n_train: Rows of the split ``train``, at most 2,870.
        n_validation: Rows of the split ``validation``, at most 752.

    Returns:
        A ``DatasetDict`` of ``train`` and ``validation`` with the column ``text``.

    Raises:
        ArgumentsError: A split has fewer rows than that.
    """
    from datasets import Dataset, DatasetDict

    texts = dict.fromkeys(text for found in docstrings().values() for text in found if len(text.split()) >= 8)
    splits = _sample_splits([(text, held_out(text)) for text in texts], seed, n_train, n_validation)
    return DatasetDict({split: Dataset.from_dict({"text": rows}) for split, rows in splits})


def _labelled_sentences() -> list[tuple[tuple[str, str], bool]]:
    """Returns each (sentence, topic) and whether it is held out, without sentences of two topics or of both splits."""
    seen: dict[str, set[tuple[str, bool]]] = {}
    for topic in TOPICS:
        for text in docstrings()[topic]:
            for sentence in sentences(text):
                seen.setdefault(sentence, set()).add((topic, held_out(text)))
    unique = ((sentence, *next(iter(places))) for sentence, places in seen.items() if len(places) == 1)
    return [((sentence, topic), is_held_out) for sentence, topic, is_held_out in unique]


def _sample_splits(
    rows: Sequence[tuple[_Row, bool]], seed: int, n_train: int, n_validation: int
) -> Iterator[tuple[str, list[_Row]]]:
    """Yields both splits by name; each of the given rows comes with whether it is held out for validation."""
    for split, n_rows in (("train", n_train), ("validation", n_validation)):
        found = [row for row, is_held_out in rows if is_held_out == (split == "validation")]
        if not 0 < n_rows <= len(found):
            raise ArgumentsError(
                f"n_{split}={n_rows} given, expected 1 to {len(found)}: the embedded text has no more."
            )
        yield split, random.Random(seed).sample(found, n_rows)


def _is_prose(sentence: str) -> bool:
    words = sentence.split()
    plain = sum(bool(_PLAIN_WORD.match(word)) for word in words)
    return 6 <= len(words) <= 40 and sentence[0].isalpha() and sentence[-1] in ".!?" and plain >= 0.7 * len(words)
