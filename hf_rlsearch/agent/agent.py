"""Decides with the weights which candidate to train next, and forecasts how a running trial ends."""

from __future__ import annotations

import copy
import logging
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from hf_rlsearch._typing import BoolArray, FloatArray, IntArray
from hf_rlsearch.agent import acquisition
from hf_rlsearch.agent.checkpoint import BUNDLED, Card, check_shapes, learnt_spaces, load_weights, parts
from hf_rlsearch.agent.decision import Alternative, Decision
from hf_rlsearch.agent.decision_head import DecisionHead
from hf_rlsearch.agent.mixture import EncodedReadings, Mixture
from hf_rlsearch.agent.network import Arrays, Predictor
from hf_rlsearch.agent.shapley import AttendedMean, PredictedMean, shapley_values
from hf_rlsearch.errors import WeightsError
from hf_rlsearch.observation.history import COMPLETE, RUNNING, History
from hf_rlsearch.observation.observation import live_observation
from hf_rlsearch.space import SearchSpace

logger = logging.getLogger(__name__)

MAX_TRIALS = 160
"""Trials that the network attends to; of a longer history the better half and the latest, to keep decisions quick."""
MAX_HYPERPARAMETERS = 24
"""In wider spaces, far outside of the prior, candidates are spread evenly instead."""
# Complete trials before which a gain is not predicted, and the predicted difference to the best trial above which the
# scale of the predictions is linear.
_FEWEST, _LINEAR = 3, -1.0
# Where no policy decides, the probability of a candidate is proportional to its expected improvement to this power.
_SHARPNESS = 3.0

Network = TypeVar("Network", bound=nn.Module)


class Agent:
    """Holds the networks of some weights and decides with them.

    Nothing is learned here: the agent adapts to a search by attending to its history.

    Args:
        tensors: As `load_weights` returns them.
        card: Their card.

    Raises:
        WeightsError: The tensors do not fit the network that the card describes.
    """

    def __init__(self, tensors: Mapping[str, Tensor], card: Card) -> None:
        self.card = card
        self._no_history: tuple[object, EncodedReadings] | None = None
        config = check_shapes({name: tuple(tensor.shape) for name, tensor in tensors.items()}, card)
        names = [part for part in parts(tensors) if part.startswith("predictor.")]
        if not names:
            raise WeightsError(f"weights {card.name!r} hold no predictor. Use the bundled weights, or train one.")
        self.mixture = Mixture([_load(Predictor(config), tensors, part) for part in names])
        self.head = _load(DecisionHead(), tensors, "head").eval() if "head" in parts(tensors) else None

    def with_head(self, head: DecisionHead) -> Agent:
        """The same agent with another decision head."""
        agent = copy.copy(self)
        agent.head = head
        return agent

    def decide(
        self,
        space: SearchSpace,
        history: History,
        candidates: IntArray,
        *,
        mask: BoolArray,
        n_remaining: int | None,
        facts: Mapping[str, float],
        rng: np.random.Generator,
        acquisition_weight: FloatArray | None = None,
    ) -> Decision:
        """Chooses the candidate to train next, on one thread (see `one_torch_thread`).

        In a space of more than `MAX_HYPERPARAMETERS`, and where a score is no finite number, a design chooses.

        Args:
            space: The search space.
            history: All finished and running trials.
            candidates: C x H level indices, C at least 1.
            mask: C, True where the candidate may be chosen, at least one.
            n_remaining: Trials that are left, this one included; None where unknown.
            facts: Known facts by name, see `hf_rlsearch.observation.observation.FACTS`.
            rng: Breaks ties and spreads designs.
            acquisition_weight: C positive factors on expected improvement, see `CostCooling`; all 1 where not given.
        """
        if len(space.hyperparameters) > MAX_HYPERPARAMETERS:
            _warn_of_a_wide_space(space.names)
            return _design(space, history, candidates, mask, rng)
        n_done, history = len(history), shorten(history)
        observation = live_observation(space, history, candidates, mask, facts)
        with one_torch_thread(), torch.inference_mode():
            arrays = Arrays.of(observation)
            encoded = self.mixture.encode_history(arrays)
            probabilities, source, scores = self._scores(encoded, arrays, mask, n_remaining, n_done)
            running = torch.as_tensor(np.flatnonzero(history.status == RUNNING))
            if len(running):
                scores = scores + _SHARPNESS * self._beside(encoded, arrays, probabilities[0], running, rng)
            if acquisition_weight is not None:
                scores = scores + _SHARPNESS * torch.as_tensor(np.log(acquisition_weight))
            if not scores[torch.as_tensor(mask)].isfinite().all():  # numbers beyond float32 within the network
                return _design(space, history, candidates, mask, rng)
            order, chances = _ranked(scores, mask, rng)
            row, alternative = candidates[order[0]], None
            if len(order) > 1:
                prediction = self._prediction(probabilities[0, order[1]], chances[order[1]])
                alternative = Alternative(params=space.decode(candidates[order[1]]), **prediction)
            with_trials = AttendedMean(self.mixture, encoded, row)
            without = PredictedMean(self.mixture, self._encode_no_history(space, facts))
            contributions, prior_contributions = (
                dict(zip(space.names, values.tolist(), strict=True))
                for values in shapley_values([with_trials, without], row, space.n_levels, rng)
            )
            return Decision(
                index=int(order[0]),
                source=source,
                n_candidates=int(mask.sum()),
                alternative=alternative,
                contributions=contributions,
                prior_contributions=prior_contributions,
                attention=with_trials.most_attended(history.numbers),
                **self._prediction(probabilities[0, order[0]], chances[order[0]]),
            )

    def forecast(
        self,
        space: SearchSpace,
        history: History,
        number: int,
        candidates: IntArray,
        *,
        mask: BoolArray,
        facts: Mapping[str, float],
    ) -> FloatArray | None:
        """Predicts the end of the running trial `number`, beside the best candidate to train instead.

        The other arguments are those of `decide`.

        Returns:
            1 x len(FORECAST_FEATURES); None where the history lacks the trial, the space has more than
            `MAX_HYPERPARAMETERS`, or a predicted number is not finite.
        """
        history = shorten(history)
        if len(space.hyperparameters) > MAX_HYPERPARAMETERS or number not in history.numbers:
            return None
        at = int(np.flatnonzero(history.numbers == number)[0])
        with one_torch_thread(), torch.inference_mode():
            arrays = Arrays.of(live_observation(space, history, candidates, mask, facts))
            own = arrays.trials[:, at : at + 1]  # may have values between the levels, which no candidate has
            rows = torch.cat([arrays.candidates, own], dim=1)
            probabilities = self.mixture.score(self.mixture.encode_history(arrays), rows)
            allowed = torch.cat([torch.as_tensor(mask), torch.tensor([False])])[None]
            last = torch.tensor([len(candidates)])
            features = acquisition.forecast_features(probabilities, self.mixture.bins, last, allowed)[0].numpy()
            return features if np.isfinite(features).all() else None

    def expected_gain(
        self,
        space: SearchSpace,
        history: History,
        candidates: IntArray,
        *,
        mask: BoolArray,
        n_trials: int,
        facts: Mapping[str, float],
        success: FloatArray,
    ) -> tuple[float, float] | None:
        """Predicts by how much the next `n_trials` improve the best trial, see `acquisition.joint_improvement`.

        The other arguments are those of `decide`; `success` has C chances that the training of a candidate ends well.

        Returns:
            The gain on the task's scale, where 1 is the distance from its median to its best, and this unit in that of
            the objective; None before `_FEWEST` complete trials, in a space of more than `MAX_HYPERPARAMETERS`, while
            all trials are equal, or if a predicted number is not finite.
        """
        history = shorten(history)
        complete = (history.status == COMPLETE) & np.isfinite(history.values)
        if len(space.hyperparameters) > MAX_HYPERPARAMETERS or complete.sum() < _FEWEST:
            return None
        with one_torch_thread(), torch.inference_mode():
            arrays, bins = Arrays.of(live_observation(space, history, candidates, mask, facts)), self.mixture.bins
            own = arrays.trials[:, torch.as_tensor(complete)]
            rows = torch.cat([arrays.candidates, own], dim=1)
            probabilities = self.mixture.score(self.mixture.encode_history(arrays), rows)[0]
            allowed = probabilities[: len(candidates)][torch.as_tensor(mask)]
            chances = torch.as_tensor(success[mask], dtype=allowed.dtype)
            gain = float(acquisition.joint_improvement(allowed, bins, n_trials, chances))
            predicted = acquisition.mean_and_spread(probabilities[len(candidates) :], bins)[0].double().numpy()
        unit = _unit(history.values[complete], predicted)
        return (gain, unit) if np.isfinite([gain, unit]).all() and unit > 0 else None

    def chance_at_least(
        self, space: SearchSpace, history: History, candidates: IntArray, threshold: float
    ) -> FloatArray | None:
        """Predicts how likely each of C candidates has a value of at least a threshold.

        The values of the history are not the objective but another quantity, larger is better. What the agent knows of
        names does not hold for that, so the readings with names hidden predict.

        Returns:
            C probabilities; None in a space of more than `MAX_HYPERPARAMETERS`, without a trial, or if a predicted
            number is not finite.
        """
        history = shorten(history)
        if len(space.hyperparameters) > MAX_HYPERPARAMETERS or not len(history):
            return None
        with one_torch_thread(), torch.inference_mode():
            mask = np.ones(len(candidates), dtype=bool)
            arrays = Arrays.of(live_observation(space, history, candidates, mask, {}))
            rows = torch.cat([arrays.candidates, arrays.trials], dim=1)
            probabilities = self.mixture.readings(self.mixture.encode_history(arrays), rows)[1::2].mean(0)[0]
            predicted = acquisition.mean_and_spread(probabilities[len(candidates) :], self.mixture.bins)[0]
            unit = _unit(history.values, predicted.double().numpy()) or 1.0
            at = (threshold - history.values.max()) / unit
            chances = acquisition.chance_above(probabilities[: len(candidates)], self.mixture.bins, at).double().numpy()
        return chances if np.isfinite(chances).all() else None

    def _scores(
        self, encoded: EncodedReadings, arrays: Arrays, mask: BoolArray, n_remaining: int | None, n_done: int
    ) -> tuple[Tensor, str, Tensor]:
        """1 x C x bins probabilities, which part scored, and its scores: C unnormalised log-probabilities."""
        bins = self.mixture.bins
        if self.head is None:
            probabilities = self.mixture.score(encoded, arrays.candidates)
            return probabilities, "predictor", _SHARPNESS * acquisition.log_expected_improvement(probabilities[0], bins)
        allowed = torch.as_tensor(mask)[None]
        probabilities, candidates = self.mixture.describe(encoded, arrays, allowed)
        left = torch.tensor([float("nan") if n_remaining is None else float(n_remaining)])
        search = acquisition.search_features(
            candidates, allowed, torch.tensor([-1]), torch.zeros(1), left, left + n_done, torch.tensor([float(n_done)])
        )
        actions = torch.cat([allowed, torch.zeros(1, 1, dtype=torch.bool)], dim=1)  # nothing runs that could continue
        return probabilities, "policy", torch.as_tensor(self.head(candidates, search, actions)[0, :-1])

    def _beside(
        self, encoded: EncodedReadings, arrays: Arrays, probabilities: Tensor, running: Tensor, rng: np.random.Generator
    ) -> Tensor:
        """C logarithms, not positive: what is left of each expected improvement beside the running trials."""
        rows = torch.cat([arrays.candidates, arrays.trials[:, running]], dim=1)
        distances, n_running = encoded[0].distances.rows(rows).processes, len(running)
        correlations = [
            predictor.processes.correlation(own.posterior, distances, running)
            for predictor, own in zip(self.mixture.members, encoded, strict=True)
        ]
        outcomes, bins = self.mixture.score(encoded, rows[:, -n_running:])[0], self.mixture.bins
        generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
        correlation = torch.cat(correlations).mean((0, 1))
        improvement = acquisition.improvement_beside(probabilities, bins, outcomes, correlation, generator)
        own = acquisition.expected_improvement(probabilities, bins)
        return acquisition.log_improvement(torch.minimum(improvement, own)) - acquisition.log_improvement(own)

    def _prediction(self, probabilities: Tensor, chosen: float) -> dict[str, float]:
        """The numbers of a `Prediction` from the outcome of one candidate and its probability of being chosen."""
        bins = self.mixture.bins
        mean, spread = acquisition.mean_and_spread(probabilities, bins)
        return {
            "probability": float(chosen),
            "improvement": float(acquisition.expected_improvement(probabilities, bins)),
            "chance": float(acquisition.chance_of_improvement(probabilities, bins)),
            "mean": float(mean),
            "spread": float(spread),
        }

    def _encode_no_history(self, space: SearchSpace, facts: Mapping[str, float]) -> EncodedReadings:
        """Encodes a search without trials; the last encoding is kept, as it stays the same during a search."""
        key = (space, tuple(sorted(facts.items())))
        if self._no_history is None or self._no_history[0] != key:
            row, mask = np.zeros((1, len(space.names)), int), np.ones(1, bool)
            observation = live_observation(space, History.from_trials([], []), row, mask, facts)
            self._no_history = key, self.mixture.encode_history(Arrays.of(observation))
        return self._no_history[1]


def _unit(values: FloatArray, predicted: FloatArray) -> float:
    """Units of the objective in one of the task's scale, as the agent reads T complete trials.

    That is the ratio of how far the trials are below the best one to how far they are predicted to be. Far below, the
    scale of the predictions is compressed, so those trials count only where there are no others.
    """
    below, near = values.max() - values, predicted > _LINEAR
    near = near if below[near].any() else np.ones_like(near)
    return float(below[near].sum() / max(-predicted[near].sum(), 1e-3 * near.sum()))


@lru_cache(maxsize=4)
def load_agent(weights: str | Path | None = None) -> Agent:
    """Loads the agent of some weights, once per process.

    Args:
        weights: A bundled name, a path, or None for the default.

    Raises:
        WeightsError: Missing, corrupted, foreign, or of another observation format.
    """
    return Agent(*load_weights(weights))


def agent_for(weights: str | Path | None, space: SearchSpace) -> Agent:
    """The agent of some weights for a search; the bundled one where they learnt from searches of another kind.

    An agent that has learnt from own studies knows their spaces by name. In a space of which it knows no more than half
    of the names, what it has learnt is of no use and may mislead.

    Raises:
        WeightsError: As `load_agent`.
    """
    agent = load_agent(weights)
    if weights is None or str(weights) in BUNDLED:
        return agent
    known = learnt_spaces(agent.card)
    if not known or any(2 * len(names.intersection(space.names)) > len(space.names) for names in known):
        return agent
    _warn_of_another_space(str(weights), space.names)
    return load_agent()


@lru_cache(maxsize=64)
def _warn_of_another_space(weights: str, names: tuple[str, ...]) -> None:
    """Says once per space that the bundled agent decides."""
    logger.warning(
        "The agent %r has learnt from searches of other hyperparameters than %s: the bundled agent decides.",
        weights, ", ".join(names),
    )  # fmt: skip


@lru_cache(maxsize=64)
def _warn_of_a_wide_space(names: tuple[str, ...]) -> None:
    """Says once per space that nothing is predicted in it."""
    logger.warning(
        "The space has %d hyperparameters, and the agent predicts nothing for more than %d: trials are spread over the "
        "space, and nothing is learnt from their results. Search fewer hyperparameters, or use another sampler.",
        len(names), MAX_HYPERPARAMETERS,
    )  # fmt: skip


_deciding = threading.Lock()


@contextmanager
def one_torch_thread() -> Iterator[None]:
    """Runs torch's operators on one thread, and restores the number of threads afterwards.

    The network is too small to gain from more threads, and where other processes use the cores, waiting for a second
    OpenMP thread makes a decision more than ten times slower. Threads of the same process (``n_jobs``) take turns: they
    share torch's setting, and the last of them must not leave the training that follows on one thread.
    """
    with _deciding:
        before = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(before)


def _load(network: Network, tensors: Mapping[str, Tensor], part: str) -> Network:
    """Gives a network the tensors of a part of some weights."""
    own = {key.removeprefix(f"{part}."): value for key, value in tensors.items() if key.startswith(f"{part}.")}
    network.load_state_dict(own)
    return network


def _ranked(scores: Tensor, mask: BoolArray, rng: np.random.Generator) -> tuple[IntArray, FloatArray]:
    """The best and, where there is one, the second best allowed candidate, ties at random; and C probabilities."""
    score = np.where(mask, scores.double().numpy() + 1e-9 * rng.random(len(mask)), -np.inf)
    weight = np.exp(score - score.max())
    order = np.argsort(-score, kind="stable")[: min(2, int(mask.sum()))]
    return order, weight / weight.sum()


def shorten(history: History) -> History:
    """The better half and the latest trials of a long history; a short history is returned unchanged."""
    if len(history.params) <= MAX_TRIALS:
        return history
    value = np.where(np.isfinite(history.values), history.values, -np.inf)
    best = np.argsort(-value, kind="stable")[: MAX_TRIALS // 2]
    keep = np.zeros(len(value), bool)
    keep[best] = True
    keep[np.flatnonzero(~keep)[-(MAX_TRIALS - len(best)) :]] = True
    return history.select(keep)


def _design(
    space: SearchSpace, history: History, candidates: IntArray, mask: BoolArray, rng: np.random.Generator
) -> Decision:
    """Chooses the candidate that differs most from every trial: a space-filling design, one by one."""
    index = _farthest(space, history, candidates, mask, rng)
    return Decision(index=index, source="design", n_candidates=int(mask.sum()))


def _farthest(
    space: SearchSpace, history: History, candidates: IntArray, mask: BoolArray, rng: np.random.Generator
) -> int:
    """Row of the allowed candidate that is farthest from its nearest trial."""
    scale = np.maximum(space.n_levels - 1, 1)
    place = candidates / scale
    allowed = np.nonzero(mask)[0]
    if not len(history.params):
        return int(rng.choice(allowed))
    trials: FloatArray = np.stack([space.nearest_levels(p) for p in shorten(history).params]) / scale
    distance = np.abs(place[allowed, None] - trials[None]).sum(2).min(1)
    return int(allowed[(distance + 1e-9 * rng.random(len(allowed))).argmax()])
