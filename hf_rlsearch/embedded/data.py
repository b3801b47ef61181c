"""Two real data sets made from the running Python's documentation, so that a search can be tried with no network.

Both keep the same fifth of all docstrings for validation; the embedded checkpoints were never trained on that fifth.
"""

import random
import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeVar

from hf_rlsearch.embedded.text import docstrings, sentences
from hf_rlsearch.errors import ArgumentsError

if TYPE_CHECKING:
    from datasets import DatasetDict

_Row = TypeVar("_Row")

# What a module is about. Each module exists in all supported Python versions, or only moved inside its topic.
TOPICS: dict[str, str] = {
    "internet": "email http urllib xmlrpc smtplib imaplib ftplib poplib socket socketserver ssl wsgiref mailbox "
    "mimetypes ipaddress webbrowser uuid netrc",
    "concurrency": "asyncio threading multiprocessing concurrent queue subprocess selectors sched",
    "files": "pathlib os posixpath ntpath genericpath shutil tempfile zipfile tarfile gzip bz2 lzma glob fnmatch "
    "fileinput _pyio io shelve dbm filecmp stat linecache",
    "debugging": "unittest doctest pdb bdb traceback timeit logging warnings profile cProfile pstats trace tracemalloc",
    "language": "importlib inspect typing ast dis symtable tokenize enum functools dataclasses pkgutil pyclbr "
    "zipimport abc types collections _collections_abc weakref operator copy contextlib codeop runpy",
    "numbers": "_pydecimal decimal statistics fractions random datetime _pydatetime calendar numbers _strptime heapq "
    "bisect graphlib colorsys turtle zoneinfo",
}


def held_out(text: str) -> bool:
    """Tells whether a docstring belongs to the fifth that is kept for validation, by a checksum of its text."""
    return zlib.crc32(text.encode()) % 5 == 0


def classification_dataset(seed: int = 0, n_train: int = 2000, n_validation: int = 500) -> "DatasetDict":
    """Makes a text classification data set: which topic of the standard library is a sentence about?

    Six classes (``TOPICS``); the largest has less than a third of the rows. Sentences that occur under two topics are
    left out, and no docstring has sentences in both splits.

    Args:
        seed: which sentences are taken, and their order. Same seed and Python version, same rows.
        n_train: rows of the split ``train``, at most about 5,000.
        n_validation: rows of the split ``validation``, at most about 1,200.

    Returns:
        A ``DatasetDict`` of ``train`` and ``validation`` with the columns ``text`` and ``label`` (a ``ClassLabel``).

    Raises:
        ArgumentsError: more rows were asked for than there are.
        HfRlSearchError: this Python came without the sources of its standard library.
    """
    from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

    names = list(TOPICS)
    features = Features({"text": Value("string"), "label": ClassLabel(names=names)})
    splits = {}
    for split, n_rows in (("train", n_train), ("validation", n_validation)):
        rows = _sample(_labelled_sentences(validation=split == "validation"), n_rows, seed=seed, what=f"n_{split}")
        columns = {"text": [text for text, _ in rows], "label": [names.index(topic) for _, topic in rows]}
        splits[split] = Dataset.from_dict(columns, features=features)
    return DatasetDict(splits)


def language_modeling_dataset(seed: int = 0, n_train: int = 2000, n_validation: int = 300) -> "DatasetDict":
    """Makes a language modelling data set: one docstring of at least eight words per row.

    Args:
        seed: which docstrings are taken, and their order. Same seed and Python version, same rows.
        n_train: rows of the split ``train``, at most about 3,000.
        n_validation: rows of the split ``validation``, at most about 700.

    Returns:
        A ``DatasetDict`` of ``train`` and ``validation`` with the column ``text``.

    Raises:
        ArgumentsError: more rows were asked for than there are.
        HfRlSearchError: this Python came without the sources of its standard library.
    """
    from datasets import Dataset, DatasetDict

    texts = list(dict.fromkeys(docstring.text for docstring in docstrings() if len(docstring.text.split()) >= 8))
    splits = {}
    for split, n_rows in (("train", n_train), ("validation", n_validation)):
        rows = [text for text in texts if held_out(text) == (split == "validation")]
        splits[split] = Dataset.from_dict({"text": _sample(rows, n_rows, seed=seed, what=f"n_{split}")})
    return DatasetDict(splits)


def _labelled_sentences(*, validation: bool) -> list[tuple[str, str]]:
    """All (sentence, topic) of one split; a sentence of two topics, or of both splits, is ambiguous and left out."""
    topic_of = {module: topic for topic, modules in TOPICS.items() for module in modules.split()}
    seen: dict[str, set[tuple[str, bool]]] = {}
    for docstring in docstrings(frozenset(topic_of)):
        place = (topic_of[docstring.module], held_out(docstring.text))
        for sentence in sentences(docstring.text):
            seen.setdefault(sentence, set()).add(place)
    unique = ((sentence, *next(iter(places))) for sentence, places in seen.items() if len(places) == 1)
    return [(sentence, topic) for sentence, topic, is_held_out in unique if is_held_out == validation]


def _sample(rows: Sequence[_Row], n_rows: int, *, seed: int, what: str) -> list[_Row]:
    if not 0 < n_rows <= len(rows):
        raise ArgumentsError(f"{what}={n_rows}, but the embedded text gives between 1 and {len(rows)} rows.")
    return random.Random(seed).sample(rows, n_rows)
