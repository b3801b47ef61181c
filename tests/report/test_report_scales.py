import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from hf_rlsearch.report.scales import Category, Linear, Log, duration, number, robust, scale_of, shorten_name, size


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.03012345, "0.03012"), (2e-5, "2e-5"), (3.16e-4, "3.16e-4"), (12_800, "12,800"), (0.0, "0"), (-1.5, "-1.5")],
)
def test_numbers_are_written_as_a_person_would(value: float, text: str) -> None:
    assert number(value) == text


def test_durations_and_sizes() -> None:
    assert [duration(s) for s in (None, 4.21, 192, 7500)] == ["–", "4.2 s", "3 min 12 s", "2 h 05 min"]
    assert [size(b) for b in (None, 8.12e8, 3.4e9)] == ["–", "812 MB", "3.4 GB"]


def test_ticks_are_round_and_inside() -> None:
    assert [text for _, text in Linear(0, 1, 4).ticks()] == ["0", "0.25", "0.5", "0.75", "1"]
    assert [text for _, text in Log(1e-5, 1e-2).ticks()] == ["1e-5", "1e-4", "0.001", "0.01"]
    assert len(Log(2e-5, 6e-5).ticks()) >= 2
    assert all(0 <= place <= 1 for place, _ in Linear(0.31, 0.77).ticks())


def test_robust_range_cuts_only_the_bad_side() -> None:
    diverged = robust([0.3, 0.31, 0.32, 0.33, 0.35, 0.4, 90.0], minimize=True)
    assert diverged.low < 0.3
    assert diverged.high < 1
    accuracy = robust([0.9, 0.89, 0.88, 0.87, 0.86, 0.85, 0.01], minimize=False)
    assert accuracy.low > 0.5
    assert accuracy.high > 0.9
    assert robust([1.0], minimize=True).place(1.0) == pytest.approx(0.5)


def test_scale_holds_values_outside_of_the_distribution() -> None:
    scale = scale_of(FloatDistribution(1e-4, 1e-2, log=True), [1e-5, 0.0])
    assert scale.place(1e-5) == 0
    assert scale.place(0.0) < 0  # no place on a logarithmic axis: drawn at its low end
    category = scale_of(CategoricalDistribution([True, False]), [1, [2]])
    assert isinstance(category, Category)
    assert category.choices == (True, False, 1, [2])
    assert category.place(1.0) == category.place(1)
    assert category.place(True) != category.place(1)


def test_ticks_of_whole_numbers_are_whole() -> None:
    assert [text for _, text in scale_of(IntDistribution(1, 4), []).ticks()] == ["1", "2", "3", "4"]


def test_names_are_cut_in_the_middle() -> None:
    assert shorten_name("per_device_train_batch_size", 11) == "per_d…_size"
    assert shorten_name("seed", 4) == "seed"
