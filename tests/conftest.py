"""Fixtures of all tests."""

from collections.abc import Iterator

import optuna
import pytest


@pytest.fixture
def quiet() -> Iterator[None]:
    """Optuna prints no line per trial. A module asks for it with ``pytest.mark.usefixtures("quiet")``."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    yield
    optuna.logging.set_verbosity(before)
