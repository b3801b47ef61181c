"""Why a trial was chosen or stopped: what the sampler and the pruner stored with it, in words.

Everything is read from the trial's system attributes ``rl:decision`` and ``rl:stop``. Other samplers and pruners store
nothing there; then the explanation says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import optuna

from hf_rlsearch.errors import ArgumentsError
from hf_rlsearch.report.records import SearchRecord, TrialRecord
from hf_rlsearch.report.scales import show


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """One decision.

    Attributes:
        trial: The trial that was chosen.
        sentences: In plain words, most important first; never empty.
        facts: (name, value) pairs for a small table.
        contributions: Hyperparameter -> how much it spoke for the choice, any scale, larger is more.
        attended: (trial number, weight in [0, 1]) that the agent looked at most, largest first.
    """

    trial: TrialRecord
    sentences: tuple[str, ...]
    facts: tuple[tuple[str, str], ...]
    contributions: tuple[tuple[str, float], ...]
    attended: tuple[tuple[int, float], ...]

    def to_text(self) -> str:
        """As lines for a terminal."""
        lines = [f"Trial {self.trial.number} ({self.trial.status}): {_params(self.trial.params)}", *self.sentences]
        lines += [f"  {name}: {value}" for name, value in self.facts]
        if self.contributions:
            lines += ["Hyperparameters by how much they spoke for the choice:"]
            lines += [f"  {name}: {value:+.3f}" for name, value in self.contributions]
        if self.attended:
            listed = ", ".join(f"trial {n} ({w:.0%})" for n, w in self.attended)
            lines.append(f"Looked at most: {listed}.")
        return "\n".join(lines)


def explain(source: optuna.Study | SearchRecord, number: int) -> Explanation:
    """Explains why trial `number` was chosen, and why it was stopped if it was.

    Args:
        source: The study, or its record.
        number: As in Optuna.

    Returns:
        The explanation; where the sampler stored nothing it says so.

    Raises:
        ArgumentsError: There is no such trial.
    """
    search = source if isinstance(source, SearchRecord) else SearchRecord.from_study(source)
    trial = next((t for t in search.trials if t.number == number), None)
    if trial is None:
        known = f"0 to {search.trials[-1].number}" if search.trials else "none yet"
        raise ArgumentsError(f"study {search.name!r} has no trial {number}; its trials are {known}.")
    decision = trial.decision
    return Explanation(
        trial=trial,
        sentences=tuple(_sentences(search, trial)),
        facts=(*_facts(decision), *_stop_facts(trial)),
        contributions=_contributions(decision.get("contributions")),
        attended=_attended(decision.get("attended")),
    )


def _sentences(search: SearchRecord, trial: TrialRecord) -> list[str]:
    lines = []
    if trial.role == "baseline":
        lines.append("These are your own arguments, run first so that the gain of the search can be told.")
    elif trial.role == "confirm":
        lines.append(
            "One of the best configurations again, under a new seed, to see whether it was the seed that was good."
        )
    elif not trial.decision:
        lines.append("The sampler that chose this trial stored no reason.")
    else:
        lines.append(_choice(search, trial))
    if trial.status == "pruned":
        lines.append(_stop(trial))
    elif trial.status == "failed":
        lines.append(
            f"It failed: {(trial.failure or '').strip().splitlines()[-1] if trial.failure else 'no reason stored'}"
        )
    return lines


def _choice(search: SearchRecord, trial: TrialRecord) -> str:
    decision = trial.decision
    if decision.get("source") == "design":
        return "The agent chose it to lie far from everything tried so far: the space is too wide for a prediction."
    chance = _float(decision.get("chance"))
    if chance is None:
        return "The agent chose it among the candidates of the search space."
    if not any(t.values for t in search.trials if t.number < trial.number):
        return "The agent chose it before there was any result, from what it knows about such trainings."
    return f"The agent gave it a chance of {chance:.0%} to beat the best trial so far."


def _stop(trial: TrialRecord) -> str:
    spent = f"after {trial.fidelity:.0%} of a full training"
    sure = _float(trial.stop.get("probability"))
    if sure is None:
        return f"It was stopped {spent}."
    return f"It was stopped {spent}: with {sure:.0%} certainty the rest was not worth its price."


# Predictions are on the scale of the task: 1 is the distance from its median configuration to its best one.
_FACT_NAMES = {
    "source": "decided by",
    "probability": "probability of this choice",
    "chance": "chance to beat the best so far",
    "improvement": "expected improvement",
    "mean": "predicted difference to the best so far",
    "spread": "spread of that prediction",
    "n_candidates": "candidates scored",
}
_PERCENT = {"probability", "chance"}


def _facts(decision: Mapping[str, Any]) -> list[tuple[str, str]]:
    facts = [(label, _fact(key, decision[key])) for key, label in _FACT_NAMES.items() if key in decision]
    other = decision.get("alternative")
    if isinstance(other, dict):
        told = ", ".join(f"{_FACT_NAMES[k]} {_fact(k, v)}" for k, v in other.items() if k in _FACT_NAMES)
        params = other.get("params")
        facts.append(("best alternative", f"{_params(params)} ({told})" if isinstance(params, dict) else told))
    return facts


def _stop_facts(trial: TrialRecord) -> list[tuple[str, str]]:
    """The last judgement of a trial that was allowed to go on; that of a stopped one is told in words."""
    sure, at = _float(trial.stop.get("probability")), _float(trial.stop.get("fidelity"))
    if sure is None or at is None or trial.status == "pruned":
        return []
    return [("last asked whether to stop", f"at {at:.0%} of a full training, {sure:.0%} certain that it should")]


def _fact(key: str, value: Any) -> str:
    plain = _float(value)
    return f"{plain:.1%}" if key in _PERCENT and plain is not None else show(value)


def _contributions(stored: Any) -> tuple[tuple[str, float], ...]:
    pairs = stored.items() if isinstance(stored, dict) else ()
    known = [(str(name), value) for name, raw in pairs if (value := _float(raw)) is not None]
    return tuple(sorted(known, key=lambda pair: -abs(pair[1])))


def _attended(stored: Any) -> tuple[tuple[int, float], ...]:
    """From a list of [number, weight] pairs, the largest weight first; anything else counts as absent."""
    pairs = []
    for entry in stored if isinstance(stored, list) else ():
        weight = _float(entry[1]) if isinstance(entry, list) and len(entry) == 2 else None
        if weight is not None and isinstance(entry[0], int):
            pairs.append((entry[0], weight))
    return tuple(sorted(pairs, key=lambda pair: -pair[1]))


def _float(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _params(params: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={show(value)}" for name, value in params.items()) or "no hyperparameters"
