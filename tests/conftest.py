"""Fixtures of all tests."""

import os
from collections.abc import Iterator

import optuna
import pytest

from hf_rlsearch.optuna.storage import open_storage
from tests.helpers import postgres

# On its import submitit configures logging, which closes all handlers that exist. That of absl closes the stream which
# was stderr when absl was imported: pytest's own.
os.environ.setdefault("SUBMITIT_LOG_LEVEL", "NOCONFIG")


@pytest.fixture
def quiet() -> Iterator[None]:
    """Optuna prints no line per trial. A module asks for it with ``pytest.mark.usefixtures("quiet")``."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    yield
    optuna.logging.set_verbosity(before)


@pytest.fixture(scope="module")
def server() -> Iterator[postgres.Server]:
    """A PostgreSQL server, which a test may stop and start again."""
    if reason := postgres.missing():
        pytest.skip(reason)
    with postgres.Server() as started:
        yield started


@pytest.fixture
def server_storage(server: postgres.Server) -> Iterator[optuna.storages.BaseStorage]:
    """The storage in that server."""
    opened = open_storage(server.url)
    yield opened
    opened._backend.engine.dispose()


def pytest_addoption(parser: pytest.Parser) -> None:
    """The sizes of the large suites; ``make chaos`` and ``make fuzz`` give larger ones."""
    parser.addoption("--kills", type=int, default=25, help="kills of a search, on one process and on two")
    parser.addoption("--studies", type=int, default=5, help="fuzzed studies")
    parser.addoption("--searches", type=int, default=1, help="fuzzed searches of a Trainer")
