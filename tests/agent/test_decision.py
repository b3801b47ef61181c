"""What is stored with a trial about its choice."""

import json

from hf_rlsearch.agent.decision import Alternative, Decision

FULL = Decision(
    index=3,
    source="predictor",
    n_candidates=9,
    probability=1 / 3,
    mean=-0.123456789,
    alternative=Alternative(params={"learning_rate": 1.23456789e-7, "n": 3}, chance=1 / 7),
    contributions={"learning_rate": 0.123456789},
    prior_contributions={"learning_rate": 0.1},
    attention=((4, 0.123456789),),
)


def test_it_is_plain_data_and_survives_json() -> None:
    stored = FULL.to_json()
    assert json.loads(json.dumps(stored)) == stored
    assert stored["mean"] == -0.12346
    assert stored["attention"] == [[4, 0.12346]]
    assert stored["contributions"] == {"learning_rate": 0.12346}


def test_values_to_train_with_are_not_rounded() -> None:
    other = FULL.to_json()["alternative"]
    assert other["params"] == {"learning_rate": 1.23456789e-7, "n": 3}
    assert other["chance"] == 0.14286


def test_what_there_is_not_is_left_out() -> None:
    stored = Decision(index=0, source="design").to_json()
    assert set(stored) == {"index", "source", "n_candidates", "probability"}
    assert "chance" in Decision(index=0, source="predictor").to_json()
