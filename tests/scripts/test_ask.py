"""How long a choice may take; `scripts/benchmarks/ask.py` measures the same and prints it."""

import importlib
import tracemalloc
from types import ModuleType

import pytest

from hf_rlsearch.space import SearchSpace


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    return importlib.import_module("ask")


pytestmark = pytest.mark.usefixtures("quiet")


@pytest.mark.slow
@pytest.mark.parametrize("n_trials", [20, 100, 10_000])
def test_a_choice_is_quick(benchmark: ModuleType, n_trials: int) -> None:
    """On the processor, so that a busy machine fails no test; the fastest of several: the first loads the weights."""
    study = benchmark.study_with(benchmark.small, n_trials)
    _, processor = benchmark.times(study, benchmark.small, 10)
    assert min(processor) < benchmark.BUDGET[n_trials]


@pytest.mark.slow
def test_ten_thousand_trials_cost_little_memory_and_none_that_stays(benchmark: ModuleType) -> None:
    """The trials themselves are Optuna's: what is counted is beside them."""
    study = benchmark.study_with(benchmark.large, 10_000)
    benchmark.times(study, benchmark.large, 2)
    tracemalloc.start()
    try:
        benchmark.times(study, benchmark.large, 2)
        first, peak = tracemalloc.get_traced_memory()
        benchmark.times(study, benchmark.large, 4)
        last, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 60e6
    assert last - first < 1e6


def test_the_benchmark_measures_256_candidates(benchmark: ModuleType) -> None:
    space = SearchSpace.from_functions(benchmark.small)
    assert (space.n_candidates, len(space.names)) == (256, 6)
    assert SearchSpace.from_functions(benchmark.large).n_candidates > 10_000
