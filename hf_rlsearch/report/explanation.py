"""Explains in words why a trial was chosen or stopped, from what the sampler and the pruner stored with the trial.

Both store system attributes, ``rl:decision`` and ``rl:stop``. Other samplers and pruners store neither, and the
explanation says so.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import optuna

from hf_rlsearch.errors import ArgumentsError
from hf_rlsearch.report.format import show
from hf_rlsearch.report.records import ONE_BY_ONE, SearchRecord, TrialRecord


@dataclass(frozen=True, kw_only=True)
class Contribution:
    """How much one hyperparameter's value moved the prediction for a trial.

    Attributes:
        name: Of the hyperparameter.
        total: On the task's scale; above zero speaks for the choice.
        beforehand: The part that was known before any trial; None where the sampler did not store it.
        n_values: Number of different values in earlier trials: with one alone, nothing was learned about others.
    """

    name: str
    total: float
    beforehand: float | None
    n_values: int

    def to_text(self) -> str:
        """The contribution as one line."""
        tried = f"{self.n_values} value{'' if self.n_values == 1 else 's'} tried before"
        known = "" if self.beforehand is None else f"{self.beforehand:+.3f} known beforehand, "
        return f"{self.name}: {self.total:+.3f} ({known}{tried})"


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """Why one trial was chosen, and how it ended.

    Attributes:
        trial: The trial that was chosen.
        sentences: The most important one first; never empty.
        facts: (name, value) pairs for a small table.
        contributions: One per hyperparameter, the largest absolute value first.
        attended: (trial number, attention weight in [0, 1]), the largest weight first.
    """

    trial: TrialRecord
    sentences: tuple[str, ...]
    facts: tuple[tuple[str, str], ...]
    contributions: tuple[Contribution, ...]
    attended: tuple[tuple[int, float], ...]

    def to_text(self) -> str:
        """The explanation as lines for a terminal."""
        lines = [f"Trial {self.trial.number} ({self.trial.status}): {_params(self.trial.params)}", *self.sentences]
        lines += [f"  {name}: {value}" for name, value in self.facts]
        if self.contributions:
            lines += ["What set this candidate apart from the average one, in the agent's prediction:"]
            lines += [f"  {contribution.to_text()}" for contribution in self.contributions]
        if self.attended:
            listed = ", ".join(f"trial {n} ({w:.0%})" for n, w in self.attended)
            lines.append(f"Highest attention: {listed}.")
        return "\n".join(lines)


def explain(source: optuna.Study | SearchRecord, number: int) -> Explanation:
    """Explains why trial `number` was chosen, and why it was stopped if it was.

    Args:
        source: The study, or its record.
        number: As in Optuna.

    Returns:
        The explanation; where the sampler stored no reason, the explanation says so.

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
        contributions=_contributions(search, trial),
        attended=_attended(decision.get("attention")),
    )


def _sentences(search: SearchRecord, trial: TrialRecord) -> list[str]:
    lines = []
    if trial.role == "baseline":
        lines.append("The baseline: your own arguments, trained first so that the gain of the search can be measured.")
    elif trial.role == "confirm":
        lines.append("One of the best configurations again, under a new seed: was the configuration good, or the seed?")
    elif not trial.decision:
        lines.append("The sampler that chose this trial stored no reason.")
    else:
        lines += _choice(search, trial)
    if trial.begun_at and trial.continues is not None:
        lines.append(f"It resumed trial {trial.continues} at {trial.begun_at:.0%}.")
    if trial.status == "pruned":
        lines.append(_stop(trial))
        if trial.paused:
            lines.append("It left a checkpoint that another trial could resume.")
    elif trial.status == "failed":
        lines.append(
            f"It failed: {(trial.failure or '').strip().splitlines()[-1] if trial.failure else 'no reason stored'}"
        )
    return lines


def _choice(search: SearchRecord, trial: TrialRecord) -> list[str]:
    decision = trial.decision
    if decision.get("source") == "design":
        return ["The agent chose a configuration far from all earlier ones: the space is too wide for a prediction."]
    if ONE_BY_ONE in decision:
        names = ", ".join(decision[ONE_BY_ONE])
        return [f"The agent chose the values one after the other ({names}): the whole space was not known yet."]
    chance = _float(decision.get("chance"))
    if chance is None:
        return ["The agent chose this configuration among the candidates of the search space."]
    if not any(t.values for t in search.trials if t.number < trial.number):
        return ["The agent chose this configuration before any result, from what it knows about such trainings."]
    line = f"The agent predicted a chance of {_percent(chance)} to beat the best trial so far."
    return [line, *_reason(search, trial)]


def _reason(search: SearchRecord, trial: TrialRecord) -> list[str]:
    """The hyperparameter that moved the prediction most; nothing where none did."""
    contributions = _contributions(search, trial)
    if not contributions or abs(contributions[0].total) < 0.01:
        return []
    most = contributions[0]
    value = f"={show(trial.params[most.name])}" if most.name in trial.params else ""
    speaks = "for" if most.total > 0 else "against"
    line = f"The strongest reason {speaks} this configuration was {most.name}{value}"
    if most.beforehand is None:
        return [f"{line}."]
    learned = abs(most.total - most.beforehand) > abs(most.beforehand)
    return [f"{line}, {'mostly learned from the trials' if learned else 'mostly known before the search'}."]


def _stop(trial: TrialRecord) -> str:
    spent = f"after {trial.fidelity:.0%} of a full training"
    sure, chance = _float(trial.stop.get("probability")), _float(trial.stop.get("chance"))
    if sure is None:
        return f"It was stopped {spent}."
    why = "" if chance is None else f" its predicted chance to become the best was {_percent(chance)}, and"
    return f"It was stopped {spent}:{why} the pruner was {sure:.0%} certain that the rest was not worth its price."


def _facts(decision: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What was predicted for the choice and for the best alternative, on the task's scale."""
    facts = []
    if "source" in decision:
        source = show(decision["source"])
        facts.append(("decided by", _SOURCES.get(source, source)))
    other = decision.get("alternative")
    second = dict(_predicted(other)) if isinstance(other, dict) else {}
    for name, text in _predicted(decision):
        beside = f"; best alternative {second[name]}" if second.get(name) else ""
        facts += [(name, f"{text}{beside}")] if text else []
    if isinstance(other, dict) and isinstance(other.get("params"), dict):
        facts.append(("best alternative", _params(other["params"])))
    price = _float(decision.get("price"))
    return facts if price is None else [*facts, ("price that its improvement was weighed against", _price(price))]


def _price(trainings: float) -> str:
    return f"{trainings:.2g} full trainings"


_SOURCES = {
    "predictor": "expected improvement, as predicted",
    "policy": "the trained policy, from what is predicted",
    "design": "distance from all trials",
}


def _predicted(prediction: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(name, text) of what is predicted for one candidate, an empty text where it was not stored."""
    number = {key: _float(prediction.get(key)) for key in ("probability", "chance", "mean", "spread", "improvement")}
    share, n = number["probability"], prediction.get("n_candidates")
    among = f" among {show(n)} candidates" if isinstance(n, int) and n > 1 else ""
    mean, spread = number["mean"], number["spread"]
    likely = "" if mean is None else f"{mean:+.3f}" + ("" if spread is None else f" ± {spread:.3f}")
    return [
        ("probability of being chosen", "" if share is None else f"{_percent(share)}{among}"),
        ("chance to beat the best so far", "" if number["chance"] is None else _percent(number["chance"])),
        ("predicted difference to the best so far", likely),
        ("expected improvement", "" if number["improvement"] is None else f"{number['improvement']:.4f}"),
    ]


def _percent(share: float) -> str:
    return "less than 1%" if 0 < share < 0.01 else f"{share:.0%}"


def _stop_facts(trial: TrialRecord) -> list[tuple[str, str]]:
    """The pruner's last judgement of a trial that it let continue; a sentence has that of a stopped trial."""
    sure, at = _float(trial.stop.get("probability")), _float(trial.stop.get("fidelity"))
    if sure is None or at is None or trial.status == "pruned":
        return []
    return [("last judgement of the pruner", f"at {at:.0%} of a full training, {sure:.0%} certain to stop")]


def _contributions(search: SearchRecord, trial: TrialRecord) -> tuple[Contribution, ...]:
    stored, before = trial.decision.get("contributions"), trial.decision.get("prior_contributions")
    known = before if isinstance(before, dict) else {}
    found = [
        Contribution(
            name=str(name), total=total, beforehand=_float(known.get(name)), n_values=_n_values(search, trial, name)
        )
        for name, raw in (stored.items() if isinstance(stored, dict) else ())
        if (total := _float(raw)) is not None
    ]
    return tuple(sorted(found, key=lambda contribution: -abs(contribution.total)))


def _n_values(search: SearchRecord, trial: TrialRecord, name: str) -> int:
    """Number of different values of a hyperparameter in the earlier trials that have a value of the objective."""
    earlier = [t for t in search.trials if t.number < trial.number and t.score() is not None]
    return len({repr(t.params[name]) for t in earlier if name in t.params})


def _attended(stored: Any) -> tuple[tuple[int, float], ...]:
    """From a list of [number, weight] pairs, the largest weight first; anything else counts as absent."""
    pairs = []
    for entry in stored if isinstance(stored, list) else ():
        weight = _float(entry[1]) if isinstance(entry, list) and len(entry) == 2 else None
        if weight is not None and isinstance(entry[0], int):
            pairs.append((entry[0], weight))
    return tuple(sorted(pairs, key=lambda pair: -pair[1]))


def _float(value: Any) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if is_number else None


def _params(params: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={show(value)}" for name, value in params.items()) or "no hyperparameters"
