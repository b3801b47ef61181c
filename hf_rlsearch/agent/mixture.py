"""Reads one history in several ways and mixes what they predict; live searches and meta-training decide by the mixture.

Each predictor reads a history twice: as it is, and with names hidden, as if nobody had said what the hyperparameters
are called or what is trained. Names help where a task is like those of the training and mislead where it is not; the
average of both readings, and of predictors that were trained apart, is wrong less often than any of them.

Letters: R readings, B searches, T trials, C candidates, H hyperparameters.

Source: ensembles of networks that were trained apart, Lakshminarayanan et al. 2017 (arXiv:1612.01474).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import TypeAlias

import torch
from torch import Tensor, nn

from hf_rlsearch.agent import acquisition
from hf_rlsearch.agent.network import Arrays, EncodedHistory, Predictor, Shared, gather_levels, level_distances
from hf_rlsearch.observation.observation import (
    CONTEXT_FACTS,
    CONTEXT_GIVEN,
    FACTS,
    LEVEL_AXIS,
    LEVEL_KIND,
    LEVEL_REAL,
    LEVEL_SIZE,
    STATIC_PRESENT,
    STATIC_RANGE,
    STATIC_ROLE,
)
from hf_rlsearch.observation.value_features import KINDS
from hf_rlsearch.space import ROLES

# Of all facts only the direction stays known with names hidden: without it a value near 1 could not be read.
_HIDDEN_FACTS = [i for i, name in enumerate(FACTS) if name != "maximize"]


EncodedReadings: TypeAlias = tuple[EncodedHistory, ...]
"""The histories of B searches, from which any candidates can be scored.

Per predictor 2 B encoded histories: first all as they are, then all with names hidden."""


class Mixture(nn.Module):
    """Predictors and readings of them, averaged with equal weights.

    The R readings are, in this order: of each predictor the history as it is and the history with names hidden.

    Args:
        predictors: At least one; all in evaluation mode from now on.
    """

    def __init__(self, predictors: Sequence[Predictor]) -> None:
        super().__init__()
        if not predictors:
            raise ValueError("there are no predictors to mix: give at least one.")
        self.predictors = nn.ModuleList(predictors).eval()
        self.bins: Tensor
        self.register_buffer("bins", predictors[0].bins, persistent=False)

    def forward(self, arrays: Arrays) -> Tensor:
        """B x C x N_BINS probabilities of the improvement over the incumbent (over the median while there is none)."""
        return self.score(self.encode_history(arrays), arrays.candidates)

    def encode_history(self, arrays: Arrays) -> EncodedReadings:
        """Computes all that does not depend on the candidates."""
        both = concatenate(arrays, hide_names(arrays))
        shared = Shared.of(arrays)
        return tuple(predictor.encode_history(both, shared) for predictor in self.members)

    def readings(self, encoded: EncodedReadings, candidates: Tensor) -> Tensor:
        """R x B x C x N_BINS probabilities of B x C x H level indices; -1 for a hyperparameter that is missing."""
        twice, distances = candidates.repeat(2, 1, 1), encoded[0].distances.rows(candidates)
        pairs = zip(self.members, encoded, strict=True)
        logits = [predictor.score(history, twice, distances) for predictor, history in pairs]
        return _probabilities(logits)

    def score(self, encoded: EncodedReadings, candidates: Tensor) -> Tensor:
        """B x C x N_BINS probabilities, the mixture of `readings`."""
        return self.readings(encoded, candidates).mean(0)

    def describe(self, encoded: EncodedReadings, arrays: Arrays, mask: Tensor) -> tuple[Tensor, Tensor]:
        """The probabilities of `score`, and B x C x len(CANDIDATE_FEATURES) features for the decision head.

        The mask is B x C, True where the candidate may be chosen.
        """
        readings = self.readings(encoded, arrays.candidates)
        probabilities = readings.mean(0)
        apart = acquisition.reading_features(readings, self.bins, mask, *_places(arrays))
        return probabilities, torch.cat([acquisition.mixture_features(probabilities, self.bins, mask), apart], -1)

    def explain(self, encoded: EncodedReadings, candidates: Tensor) -> tuple[Tensor, Tensor]:
        """The probabilities of `score`, and B x C x (1 + T) attention weights on "no such trial" and on each trial.

        The weights are means over the readings of the predictors, see `Predictor.explain`.
        """
        twice, distances = candidates.repeat(2, 1, 1), encoded[0].distances.rows(candidates)
        pairs = zip(self.members, encoded, strict=True)
        found = [predictor.explain(history, twice, distances) for predictor, history in pairs]
        probabilities = _probabilities([logits for logits, _ in found]).mean(0)
        attention = torch.cat([weights for _, weights in found])
        return probabilities, attention.view(-1, *candidates.shape[:2], attention.shape[2]).mean(0)

    @property
    def members(self) -> list[Predictor]:
        """The predictors."""
        return [p for p in self.predictors if isinstance(p, Predictor)]  # a ModuleList is typed as holding any module


def _probabilities(logits: Sequence[Tensor]) -> Tensor:
    """R x B x C x N_BINS probabilities, from the logits 2 B x C x N_BINS of each predictor."""
    stacked = torch.stack(list(logits)).softmax(-1)  # predictors x 2 B x C x N_BINS
    return stacked.view(-1, stacked.shape[1] // 2, *stacked.shape[2:])


def _places(arrays: Arrays) -> tuple[Tensor, Tensor]:
    """B x C distances of candidates to the nearest trial and from the middle of the ranges, see `reading_features`."""
    present = arrays.static[..., STATIC_PRESENT]
    B, C, _ = arrays.candidates.shape
    n_trials = arrays.trial_mask.shape[1]
    from_trials = torch.ones(B, C, device=present.device)
    if n_trials:
        apart = gather_levels(level_distances(arrays)[1], arrays.candidates).sum(1) / present.sum(1)[:, None, None]
        nearest = apart.masked_fill(~arrays.trial_mask[:, None], 1.0).min(2).values
        from_trials = nearest
    ordered = (arrays.ordered & (present > 0)).float()
    away = (arrays.positions - 0.5).abs()
    index = arrays.candidates.clamp(min=0).transpose(1, 2)  # B x H x C
    from_middle = (torch.gather(away, 2, index) * ordered[..., None]).sum(1) / ordered.sum(1).clamp(min=1)[:, None]
    return from_trials.clamp(max=1.0), from_middle


def hide_names(arrays: Arrays) -> Arrays:
    """The same searches as they look where nobody knows what a hyperparameter is called or what is trained.

    Kept are all numbers that are relative to the search's own ranges and values, whether levels are ordered or zero,
    and whether the objective is maximised.
    """
    static, levels, context = arrays.static.clone(), arrays.level_features.clone(), arrays.context.clone()
    present = static[..., STATIC_PRESENT]
    static[..., STATIC_RANGE] = 0
    static[..., STATIC_ROLE] = 0
    roles = static[..., STATIC_ROLE]
    roles[..., ROLES.index("generic_numeric")] = present * arrays.ordered
    roles[..., ROLES.index("generic_categorical")] = present * ~arrays.ordered
    levels[..., LEVEL_AXIS] = 0
    levels[..., LEVEL_SIZE] = 0
    levels[..., LEVEL_KIND] = 0
    levels[..., LEVEL_KIND][..., KINDS.index("unknown")] = levels[..., LEVEL_REAL]
    for columns in (CONTEXT_FACTS, CONTEXT_GIVEN):
        context[:, columns][:, _HIDDEN_FACTS] = 0
    return replace(arrays, static=static, level_features=levels, context=context)


def hide_names_of(searches: Tensor, arrays: Arrays) -> Arrays:
    """The searches as they are, those of B flags with names hidden."""

    def choose(hidden: Tensor, known: Tensor) -> Tensor:
        return hidden if hidden is known else torch.where(searches.view(-1, *[1] * (known.dim() - 1)), hidden, known)

    hidden = hide_names(arrays)
    return Arrays(*(choose(getattr(hidden, f.name), getattr(arrays, f.name)) for f in fields(Arrays)))


def concatenate(first: Arrays, second: Arrays) -> Arrays:
    """The searches of both, one after the other."""
    return Arrays(*(torch.cat([getattr(first, f.name), getattr(second, f.name)]) for f in fields(Arrays)))
