"""The reports of loading a checkpoint, the same for every trial, are printed once in a search."""

import logging
from collections.abc import Iterator

import pytest
from transformers import AutoModelForSequenceClassification
from transformers.utils import logging as hf_logging

from hf_rlsearch import embedded
from hf_rlsearch.trainer.session.progress import quiet_libraries


@pytest.fixture
def reports() -> Iterator[list[str]]:
    """What transformers logs as a warning."""
    texts: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: texts.append(record.getMessage())  # type: ignore[method-assign]
    level = hf_logging.get_verbosity()
    hf_logging.set_verbosity_warning()
    logger = logging.getLogger("transformers")
    logger.addHandler(handler)
    yield texts
    logger.removeHandler(handler)
    hf_logging.set_verbosity(level)


def test_missing_weights_of_a_checkpoint_are_reported_once(reports: list[str]) -> None:
    def load(n_labels: int) -> None:
        AutoModelForSequenceClassification.from_pretrained(embedded.path("bert-tiny"), num_labels=n_labels)

    with quiet_libraries():
        load(2)
        load(2)
        assert len(reports) == 1
        assert "classifier.weight" in reports[0]
    load(2)
    load(2)
    assert len(reports) == 3
