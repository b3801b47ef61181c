"""Scores candidates and continuing from features of the frozen predictor; PPO trains this decision head.

The head starts as a good rule. For candidates the rule is expected improvement; for the running trial it is expected
improvement per training still to be paid, compared with that of the best candidate. Both rules are myopic: PPO learns
to add the value of the remaining budget, and of what a trial teaches about others.

Letters: B searches, C candidates.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hf_rlsearch.agent.acquisition import CANDIDATE_FEATURES, SEARCH_FEATURES

# Logits per unit of log expected improvement: how far the starting policy explores during meta-training.
_SHARPNESS = 3.0


class DecisionHead(nn.Module):
    """Features -> logits of all candidates and of *continue*."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        n_candidate, n_search = len(CANDIDATE_FEATURES), len(SEARCH_FEATURES)
        self.residual = zero_last(n_candidate + n_search, width, 1)
        self.gate = zero_last(n_search, width, 1)

    def forward(self, candidates: Tensor, search: Tensor, mask: Tensor) -> Tensor:
        """Scores actions by features of B x C candidates and of B searches.

        Returns:
            B x (C + 1) log-probabilities. The last action is *continue*; the mask is True where an action may be
            chosen.
        """
        spread = search[:, None].expand(-1, candidates.shape[1], -1)
        log_ei = candidates[..., 0] * 3
        choice = _SHARPNESS * log_ei + self.residual(torch.cat([candidates, spread], -1))[..., 0]
        choice = F.log_softmax(choice.masked_fill(~mask[:, :-1], -1e4), dim=-1)
        proceed = self.continue_logit(search).masked_fill(~mask[:, -1], -1e4)
        logits = torch.cat([choice + F.logsigmoid(-proceed)[:, None], F.logsigmoid(proceed)[:, None]], dim=1)
        return logits.masked_fill(~mask, -1e8)

    def continue_logit(self, search: Tensor) -> Tensor:
        """B log-odds of continuing the running trial; meaningless where nothing runs."""
        column = {name: search[:, i] for i, name in enumerate(SEARCH_FEATURES)}
        price = torch.log(1.05 - column["running_fidelity"])  # finite for a trial that is nearly complete
        rule = 3 * (column["running_log_ei"] - column["best_log_ei"]) - price
        return torch.as_tensor(2.0 * rule + self.gate(search)[:, 0])


def zero_last(n_in: int, width: int, n_out: int) -> nn.Sequential:
    """An MLP that outputs zero until it is trained."""
    last = nn.Linear(width, n_out)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(nn.Linear(n_in, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), last)
