"""The bundled weights score three stored observations as they did; `python scripts/renew_golden.py` renews the scores.

Tolerance: 1e-4 in probability, which other processors and library versions keep and another network does not.
"""

import importlib.util
from dataclasses import fields
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from hf_rlsearch.observation.observation import Observation, SpaceArrays

ROOT = Path(__file__).resolve().parent.parent.parent
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def golden() -> ModuleType:
    spec = importlib.util.spec_from_file_location("renew_golden", ROOT / "scripts" / "renew_golden.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_bundled_weights_score_as_they_did(golden: ModuleType) -> None:
    with np.load(golden.SCORES, allow_pickle=False) as stored:
        expected = stored["scores"]
    np.testing.assert_allclose(golden.score(golden.load_observations()), expected, atol=TOLERANCE)


def test_golden_scores_are_distributions_that_differ(golden: ModuleType) -> None:
    with np.load(golden.SCORES, allow_pickle=False) as stored:
        scores = stored["scores"]
    np.testing.assert_allclose(scores.sum(-1), 1, rtol=1e-4)
    assert len(scores) == 3
    assert np.abs(scores[0] - scores[1]).max() > 100 * TOLERANCE
    assert np.ptp(scores, axis=1).max() > 100 * TOLERANCE


def test_the_builder_makes_the_stored_observations(golden: ModuleType) -> None:
    """A change of the prior or of the observation is a change of what the weights were trained on."""
    made, stored = golden.make_observations(), golden.load_observations()
    for ours, theirs, kind in ((made, stored, Observation), (made.space, stored.space, SpaceArrays)):
        for field in fields(kind):
            if field.name != "space":
                expected = getattr(theirs, field.name)
                np.testing.assert_allclose(getattr(ours, field.name), expected, atol=1e-5, err_msg=field.name)
