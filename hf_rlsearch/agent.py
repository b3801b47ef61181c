"""The agent: weights that choose. No learning happens here; it adapts to a search in context."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hf_rlsearch._typing import BoolArray, FloatArray, IntArray
from hf_rlsearch.errors import WeightsError
from hf_rlsearch.history import History
from hf_rlsearch.observation import live_observation
from hf_rlsearch.policy.features import candidate_features, log_expected_improvement, search_features
from hf_rlsearch.policy.head import DecisionHead
from hf_rlsearch.policy.network import Arrays, NetworkConfig, Predictor
from hf_rlsearch.policy.threads import one_torch_thread
from hf_rlsearch.space import SearchSpace
from hf_rlsearch.weights.load import Card, load_weights

MAX_TRIALS = 160
"""Trials that the network looks at; of a longer history the better half and the latest, so that asking stays quick."""
_SHARPNESS = 3.0  # of the probability shown where no policy decided: expected improvement to this power, normalised
MAX_HYPERPARAMETERS = 24
"""Beyond this many the prior says nothing; candidates are then spread evenly."""


@dataclass(frozen=True)
class Decision:
    """Which candidate to train next, and why.

    Attributes:
        index: Row of the candidates.
        source: "policy", "predictor" or "design": who decided.
        probability: Of this choice, in (0, 1].
        improvement: Expected improvement over the best trial, 1 = from the median to the best of such tasks.
        chance: Predicted probability of any improvement.
        mean: Predicted mean difference to the best trial, same scale.
        spread: Predicted standard deviation, same scale.
    """

    index: int
    source: str
    probability: float
    improvement: float = 0.0
    chance: float = 0.0
    mean: float = 0.0
    spread: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """Plain data, rounded, small enough to store with every trial."""
        return {k: round(v, 5) if isinstance(v, float) else v for k, v in asdict(self).items()}


class Agent:
    """Weights in use.

    Args:
        tensors: As `load_weights` returns them.
        card: Their card.

    Raises:
        WeightsError: The tensors do not fit the network that the card describes.
    """

    def __init__(self, tensors: Mapping[str, Tensor], card: Card) -> None:
        self.card = card
        try:
            self.predictor = Predictor(NetworkConfig(**card.network)).eval()
            self.predictor.load_state_dict(part(tensors, "predictor"))
            self.head = DecisionHead().eval() if part(tensors, "head") else None
            if self.head is not None:
                self.head.load_state_dict(part(tensors, "head"))
        except (RuntimeError, TypeError) as error:
            raise WeightsError(
                f"weights {card.name!r} do not fit the network that their card describes: {error}"
            ) from error

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
    ) -> Decision:
        """Chooses the candidate to train next; takes one thread, see `hf_rlsearch.policy.threads`.

        Args:
            space: The search space.
            history: All that was trained or is running.
            candidates: C x H level indices, C at least 1.
            mask: C, True where the candidate may be chosen, at least one.
            n_remaining: Trials that are left with this one, None where nobody knows.
            facts: Known facts by name, see `hf_rlsearch.tasks.prior.FACTS`.
            rng: Breaks ties and spreads designs.
        """
        if len(space.hyperparameters) > MAX_HYPERPARAMETERS:
            return Decision(_farthest(space, history, candidates, mask, rng), "design", 1.0)
        observation = live_observation(space, shorten(history), candidates, mask, facts)
        with one_torch_thread(), torch.inference_mode():
            logits = self.predictor(Arrays.of(observation))
            if self.head is not None and n_remaining is not None:
                scores = self._policy_scores(logits, mask, n_remaining, len(history))
                return self._decision("policy", scores, logits[0].softmax(-1), mask, rng)
            expected = log_expected_improvement(logits[0].softmax(-1), self.predictor.bins)
            return self._decision("predictor", _SHARPNESS * expected, logits[0].softmax(-1), mask, rng)

    def _policy_scores(self, logits: Tensor, mask: BoolArray, n_remaining: int, n_done: int) -> Tensor:
        """C log-probabilities of the decision head, which knows how much of the budget is left."""
        assert self.head is not None
        allowed = torch.as_tensor(mask)[None]
        candidates = candidate_features(logits, self.predictor.bins, allowed)
        left, total = torch.tensor([float(n_remaining)]), torch.tensor([float(n_remaining + n_done)])
        search = search_features(candidates, allowed, torch.tensor([-1]), torch.zeros(1), left, total)
        actions = torch.cat([allowed, torch.zeros(1, 1, dtype=torch.bool)], dim=1)
        return torch.as_tensor(self.head(candidates, search, actions)[0][0, :-1])

    def _decision(
        self, source: str, scores: Tensor, probabilities: Tensor, mask: BoolArray, rng: np.random.Generator
    ) -> Decision:
        """The allowed candidate of the largest score, ties at random; C scores as unnormalised log-probabilities."""
        bins = self.predictor.bins
        score = np.where(mask, scores.double().numpy() + 1e-9 * rng.random(len(mask)), -np.inf)
        index = int(score.argmax())
        weight, p = np.exp(score - score.max()), probabilities[index]
        mean = float((p * bins).sum())
        return Decision(
            index,
            source,
            float(weight[index] / weight.sum()),
            float((p * bins.clamp(min=0)).sum()),
            float((p * (bins > 0.004)).sum()),
            mean,
            float(((p * (bins - mean) ** 2).sum()).sqrt()),
        )


def part(tensors: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """The tensors of one part ("predictor", "head", "stop") by their own names, empty if there are none."""
    return {key.removeprefix(f"{name}."): value for key, value in tensors.items() if key.startswith(f"{name}.")}


def shorten(history: History, limit: int = MAX_TRIALS) -> History:
    """The better half and the latest trials of a long history; a short one as it is."""
    if len(history.params) <= limit:
        return history
    value = np.where(np.isfinite(history.values), history.values, -np.inf)
    best = np.argsort(-value, kind="stable")[: limit // 2]
    rest = np.setdiff1d(np.arange(len(value)), best)[-(limit - limit // 2) :]
    keep = np.sort(np.concatenate([best, rest]))
    return History(
        history.numbers[keep],
        tuple(history.params[i] for i in keep),
        history.values[keep],
        history.fidelity[keep],
        history.status[keep],
        tuple(history.curves[i] for i in keep),
    )


def _farthest(
    space: SearchSpace, history: History, candidates: IntArray, mask: BoolArray, rng: np.random.Generator
) -> int:
    """The candidate that differs most from every trial: a space-filling design, one by one."""
    scale = np.maximum(space.n_levels - 1, 1)
    place = candidates / scale
    allowed = np.nonzero(mask)[0]
    if not len(history.params):
        return int(rng.choice(allowed))
    trials: FloatArray = np.stack([space.nearest_levels(p) for p in shorten(history).params]) / scale
    distance = np.abs(place[allowed, None] - trials[None]).sum(2).min(1)
    return int(allowed[(distance + 1e-9 * rng.random(len(allowed))).argmax()])


@lru_cache(maxsize=4)
def load_agent(weights: str | Path | None = None) -> Agent:
    """The agent of some weights, loaded once per process.

    Args:
        weights: A bundled name, a path, or None for the default.

    Raises:
        WeightsError: Missing, corrupted, foreign, or of another observation format.
    """
    return Agent(*load_weights(weights))
