"""What is counted of a search."""

import optuna
from optuna.trial import TrialState, create_trial

from hf_rlsearch.observation.trial_attributes import counted, n_trials_used


def test_a_stopped_trial_uses_up_its_share_and_a_confirmation_nothing() -> None:
    """A search says how far it is in the unit of n_trials: it may go on although as many trials have ended."""
    study = optuna.create_study()
    judged = {"intermediate_values": {2500: 0.5}, "system_attrs": {"rl:stop": {"probability": 0.9}}}
    study.add_trial(create_trial(value=0.0, user_attrs={"rl:role": "baseline"}))
    study.add_trial(create_trial(value=0.5, state=TrialState.PRUNED, user_attrs={"rl:role": "search"}, **judged))
    study.add_trial(create_trial(value=0.0, user_attrs={"rl:role": "confirm"}))
    assert n_trials_used(study) == 1.25


def test_a_stopped_trial_of_several_objectives_uses_up_what_it_trained() -> None:
    """Optuna stores no reports of it, so the search itself has stored how far it came."""
    system = {"rl:stop": {"reason": "limit", "fidelity": 0.25}}
    assert counted(create_trial(state=TrialState.PRUNED, user_attrs={"rl:trained": 0.25}, system_attrs=system)) == 0.25
