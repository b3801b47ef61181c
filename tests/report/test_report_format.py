import math

import pytest

from hf_rlsearch.report.format import choice_labels, duration, number, printable, shorten_name, size


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.03012345, "0.03012"), (2e-5, "2e-5"), (3.16e-4, "3.16e-4"), (12_800, "12,800"), (0.0, "0"), (-1.5, "-1.5")],
)
def test_numbers_are_written_as_a_person_would(value: float, text: str) -> None:
    assert number(value) == text


def test_durations_and_sizes() -> None:
    assert [duration(s) for s in (None, 4.21, 192, 7500)] == ["–", "4.2 s", "3 min 12 s", "2 h 05 min"]
    assert [size(b) for b in (None, 8.12e8, 3.4e9)] == ["–", "812 MB", "3.4 GB"]


def test_names_are_cut_in_the_middle() -> None:
    assert shorten_name("per_device_train_batch_size", 11) == "per_d…_size"
    assert shorten_name("seed", 4) == "seed"


def test_choices_that_look_alike_have_different_labels() -> None:
    assert choice_labels([1, "1", True, None, math.nan, "a" * 40]) == [
        "1",
        "'1'",
        "True",
        "None",
        "nan",
        "a" * 15 + "…",
    ]
    assert len(set(choice_labels(["a" * 40, "a" * 41, "a" * 42]))) == 3


def test_text_that_parsers_refuse_is_replaced() -> None:
    assert printable("a\x00\x1b\ud800é") == "a\ufffd\ufffd\ufffdé"
