"""What is counted of a search."""

import optuna
from optuna.trial import TrialState, create_trial

from hf_rlsearch.observation.trial_attributes import n_trials_used


def test_a_stopped_trial_uses_up_its_share_and_a_confirmation_nothing() -> None:
    """A search says how far it is in the unit of n_trials: it may go on although as many trials have ended."""
    study = optuna.create_study()
    judged = {"intermediate_values": {2500: 0.5}, "system_attrs": {"rl:stop": {"probability": 0.9}}}
    study.add_trial(create_trial(value=0.0, user_attrs={"rl:role": "baseline"}))
    study.add_trial(create_trial(value=0.5, state=TrialState.PRUNED, user_attrs={"rl:role": "search"}, **judged))
    study.add_trial(create_trial(value=0.0, user_attrs={"rl:role": "confirm"}))
    assert n_trials_used(study) == 1.25
