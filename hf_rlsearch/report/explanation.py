"""Explains in words why a trial was chosen or stopped, from what the sampler and the pruner stored with the trial.

Both store system attributes, ``rl:decision`` and ``rl:stop``. Other samplers and pruners store neither, and the
explanation says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import optuna

from hf_rlsearch.errors import ArgumentsError
from hf_rlsearch.observation.trial_attributes import AHEAD, AT_CHANCE, BASELINE, CONFIRM, LEADS, LIMIT, TIMEOUT
from hf_rlsearch.report.format import objectives, percent, show, show_params
from hf_rlsearch.report.records import ONE_BY_ONE, SearchRecord, TrialRecord, as_dict, finite

_SCRATCH = {"ppo-scratch": "PPO, which learns in this search alone", "dqn": "DQN, which learns in this search alone"}
_SOURCES = {
    "predictor": "expected improvement, as predicted",
    "policy": "the trained policy, from what is predicted",
    "design": "distance from all trials",
    **_SCRATCH,
}
_GOES_ON = {
    LEADS: "no other trial was better at that point",
    AHEAD: "it was better already than every complete trial",
    AT_CHANCE: "it was at chance level, and complete trials had not shown that its lag behind the best stays",
}

UNIT = "where 1 is from the median to the best configuration"
"""Unit of what the agent predicts."""


@dataclass(frozen=True, kw_only=True)
class Contribution:
    """How much one hyperparameter's value moved the prediction for a trial.

    Attributes:
        name: Of the hyperparameter.
        total: On the task's scale; above zero speaks for the choice.
        beforehand: The part that was known before any trial; None where it was not stored.
        n_values: Number of different values in earlier trials: with one alone, nothing was learned about others.
    """

    name: str
    total: float
    beforehand: float | None
    n_values: int

    def to_text(self) -> str:
        """The contribution as one line."""
        known = "" if self.beforehand is None else f"{self.beforehand:+.3f} known beforehand, "
        values = "value" if self.n_values == 1 else "values"
        return f"{self.name}: {self.total:+.3f} ({known}{self.n_values} {values} tried before)"


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

    @property
    def largest(self) -> float:
        """The largest absolute value in `contributions`; 1 if all are 0."""
        parts = [part for c in self.contributions for part in (c.total, c.beforehand or 0.0)]
        return max(map(abs, parts), default=0.0) or 1.0

    @property
    def attention(self) -> str:
        """`attended` as a sentence."""
        return f"Highest attention: {', '.join(f'trial {n} ({weight:.0%})' for n, weight in self.attended)}."

    def to_text(self) -> str:
        """The explanation as lines for a terminal."""
        params = show_params(self.trial.params) or "no hyperparameters"
        value = f", {objectives(self.trial.values)}" if self.trial.values else ""
        lines = [f"Trial {self.trial.number} ({self.trial.status}{value}): {params}", *self.sentences]
        lines += [f"  {name}: {value}" for name, value in self.facts]
        if self.contributions:
            lines += [f"What set this candidate apart from the average one, in the agent's prediction, {UNIT}:"]
            lines += [f"  {contribution.to_text()}" for contribution in self.contributions]
        return "\n".join([*lines, self.attention] if self.attended else lines)


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
    contributions = _contributions(search, trial)
    return Explanation(
        trial=trial,
        sentences=(*_choice(search, trial, contributions), *_course(trial)),
        facts=tuple(_facts(trial).items()),
        contributions=contributions,
        attended=_attended(trial.decision.get("attention")),
    )


def _choice(search: SearchRecord, trial: TrialRecord, contributions: tuple[Contribution, ...]) -> list[str]:
    """Says why the configuration was chosen."""
    if queued := _queued(trial):
        return [queued]
    decision = trial.decision
    given = [f"You gave {show_params(trial.given)} to be trained first (initial_trials)."] if trial.given else []
    if not decision:
        return given or ["The sampler that chose this trial stored no reason."]
    has_results = any(t.values for t in search.trials if t.number < trial.number)
    chance = finite(decision.get("chance"))
    if decision.get("source") == "design":
        line = "The agent chose a configuration far from all earlier ones: the space is too wide for a prediction."
    elif str(decision.get("source")) in _SCRATCH:
        line = (
            f"Chosen by {_SCRATCH[decision['source']]}: it predicts nothing, and tries a part of its choices at random."
        )
    elif ONE_BY_ONE in decision:
        names = ", ".join(decision[ONE_BY_ONE])
        line = f"The agent chose the values one after the other ({names}): the whole space was not known yet."
    elif chance is None:
        line = "The agent chose this configuration among the candidates of the search space."
    elif not has_results:
        line = "The agent chose this configuration before any result, from what it knows about such trainings."
    else:
        line = f"The agent predicted a chance of {percent(chance)} to beat the best trial so far."
        if contributions and abs(contributions[0].total) >= 0.01:
            return [*given, line, _strongest_reason(trial, contributions[0])]
    return [*given, line]


def _queued(trial: TrialRecord) -> str:
    """Says why a trial was trained whose configuration nobody chose anew; empty for any other trial."""
    if trial.repeats is not None:
        return f"Trial {trial.repeats} again, which had failed: a callback of the storage has queued it once more."
    if trial.role == BASELINE:
        return (
            "The baseline: the arguments of your Trainer, trained first so that the gain of the search can be measured."
        )
    if trial.role == CONFIRM:
        return "One of the best configurations again, under a new seed: was the configuration good, or the seed?"
    return ""


def _strongest_reason(trial: TrialRecord, most: Contribution) -> str:
    value = f"={show(trial.params[most.name])}" if most.name in trial.params else ""
    speaks = "for" if most.total > 0 else "against"
    line = f"The strongest reason {speaks} this configuration was {most.name}{value}"
    if most.beforehand is None:
        return f"{line}."
    is_learned = abs(most.total - most.beforehand) > abs(most.beforehand)
    return f"{line}, {'mostly learned from the trials' if is_learned else 'mostly known before the search'}."


def _course(trial: TrialRecord) -> list[str]:
    """Says where the training started, and why it ended early."""
    resumes = trial.started_at > 0 and trial.continues is not None
    lines = [f"It resumed trial {trial.continues} at {trial.started_at:.0%}."] if resumes else []
    if trial.status == "pruned":
        line = f"It was stopped after {trial.fidelity:.0%} of a full training"
        sure, chance = finite(trial.stop.get("probability")), finite(trial.stop.get("chance"))
        if trial.stop.get("reason") == TIMEOUT:
            line += ", because the time of the search was over"
        elif trial.stop.get("reason") == LIMIT:
            line += ", because it had exceeded the memory that the constraints allow"
        elif sure is not None:
            why = "" if chance is None else f" its predicted chance to become the best was {percent(chance)}, and"
            line += f":{why} the pruner was {sure:.0%} certain that the rest was not worth its price"
        lines.append(f"{line}.")
        lines += ["It left a checkpoint that another trial could resume."] if trial.paused else []
    elif trial.status == "failed":
        lines.append(f"It failed: {trial.failure}")
    return lines


def _facts(trial: TrialRecord) -> dict[str, str]:
    """Predictions for the choice and the best alternative, on the task's scale, and the pruner's last judgement."""
    facts = {}
    if "source" in trial.decision:
        source = show(trial.decision["source"])
        facts["decided by"] = _SOURCES.get(source, source)
    other, by_policy = as_dict(trial.decision.get("alternative")), trial.decision.get("source") != "predictor"
    second = _predicted(other, by_policy=by_policy)
    for name, text in _predicted(trial.decision, by_policy=by_policy).items():
        facts[name] = f"{text}; best alternative {second[name]}" if name in second else text
    if "params" in other:
        facts["best alternative"] = show_params(as_dict(other["params"]))
    feasibility = finite(trial.decision.get("feasibility"))
    if feasibility is not None:
        facts["chance to violate no constraint"] = percent(feasibility)
    price, too_long = (finite(trial.decision.get(name)) for name in ("price", "too_long"))
    if price is not None:
        facts["expected cost"] = f"{price:.2g} full trainings"
    if too_long:
        facts["candidates that did not fit what was left of time or budget"] = f"{int(too_long):,}"
    if trial.status != "pruned" and (judged := _judged(trial.stop)):  # `_course` gives it of a stopped trial
        facts["last judgement of the pruner"] = judged
    return facts


def _judged(stop: Mapping[str, Any]) -> str:
    """Why RLPruner let a trial go on at its latest report; empty if it has not judged the trial."""
    sure, at = finite(stop.get("probability")), finite(stop.get("fidelity"))
    if at is None:
        return ""
    if why := _GOES_ON.get(str(stop.get("goes_on"))):
        return f"at {at:.0%} of a full training it went on, as {why}"
    if sure is None:
        return ""
    judged = f"at {at:.0%} of a full training, probability of stopping {sure:.0%}"
    chance, limit = finite(stop.get("chance")), finite(stop.get("limit"))
    if chance is not None and limit is not None:
        judged += f"; it went on, as its chance to become the best, {percent(chance)}, is not below {limit:.0%}"
    return judged


def _predicted(prediction: Mapping[str, Any], *, by_policy: bool) -> dict[str, str]:
    """Name -> text of each stored prediction for one candidate.

    Its probability is that of a policy. Where expected improvement decides, the largest is chosen, and the stored share
    of it among all candidates is no probability.
    """
    known = {key: value for key, stored in prediction.items() if (value := finite(stored)) is not None}
    texts = {}
    if "n_candidates" in known:
        texts["candidates to choose from"] = f"{int(known['n_candidates']):,}"
    if "probability" in known and by_policy:
        texts["probability of being chosen"] = percent(known["probability"])
    if "chance" in known:
        texts["chance to beat the best so far"] = percent(known["chance"])
    if "mean" in known:
        spread = f" ± {known['spread']:.3f}" if "spread" in known else ""
        texts[f"predicted difference to the best so far, {UNIT}"] = f"{known['mean']:+.3f}{spread}"
    if "improvement" in known:
        texts["expected improvement, in the same unit"] = f"{known['improvement']:.4f}"
    return texts


def _contributions(search: SearchRecord, trial: TrialRecord) -> tuple[Contribution, ...]:
    before, stored_now = (as_dict(trial.decision.get(name)) for name in ("prior_contributions", "contributions"))
    if not stored_now:
        return ()
    earlier = [t.params for t in search.trials if t.number < trial.number and t.score is not None]
    found = [
        Contribution(
            name=name,
            total=total,
            beforehand=finite(before.get(name)),
            n_values=len({repr(params[name]) for params in earlier if name in params}),
        )
        for name, stored in stored_now.items()
        if (total := finite(stored)) is not None
    ]
    return tuple(sorted(found, key=lambda contribution: -abs(contribution.total)))


def _attended(stored: Any) -> tuple[tuple[int, float], ...]:
    """From a list of [number, weight] pairs; anything else counts as absent."""
    if not isinstance(stored, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in stored):
        return ()
    return tuple((number, weight) for number, stored_weight in stored if (weight := finite(stored_weight)) is not None)
