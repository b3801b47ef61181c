"""What counts as a number, and which name was meant."""

import math
from typing import Any

import numpy as np
import pytest

from hf_rlsearch._validation import closest, did_you_mean, is_finite_number, is_integer, is_number


@pytest.mark.parametrize(
    ("value", "number", "finite", "integer"),
    [
        (1, True, True, True),
        (np.int64(3), True, True, True),
        (1.0, True, True, False),
        (np.float32(0.5), True, True, False),
        (math.nan, True, False, False),
        (math.inf, True, False, False),
        (10**400, True, False, True),
        (True, False, False, False),
        (np.True_, False, False, False),
        ("1", False, False, False),
        (None, False, False, False),
        (1j, False, False, False),
    ],
)
def test_numbers(value: Any, number: bool, finite: bool, integer: bool) -> None:
    assert (is_number(value), is_finite_number(value), is_integer(value)) == (number, finite, integer)


def test_the_nearest_name() -> None:
    known = ("learning_rate", "weight_decay")
    assert closest("learnig_rate", known) == "learning_rate"
    assert closest("learnig_rate", known, cutoff=0.99) is None
    assert closest(3, known) is None
    assert did_you_mean("weightdecay", known) == " Did you mean 'weight_decay'?"
    assert did_you_mean("beams", known) == ""
