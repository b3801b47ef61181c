"""Effects of size and of names: width, depth, heads, vocabulary, backbone, optimizer, schedule."""

from __future__ import annotations

import numpy as np

from hf_rlsearch._typing import FloatArray
from hf_rlsearch.knowledge import KINDS
from hf_rlsearch.space import ROLES
from hf_rlsearch.tasks.prior_axes import STRENGTH, AxisDraw
from hf_rlsearch.tasks.prior_space import lognormal


class ArchitectureDraw(AxisDraw):
    """Losses by what is trained, one batch; each method adds its effect in place."""

    def _add_capacity(self, loss: FloatArray) -> FloatArray:
        """Width and depth; returns B x C doublings beyond the usual size."""
        rng, B, normal = self.rng, self.B, self.rng.standard_normal
        # One latent appetite of the task for bigger models, shared by width and depth.
        appetite = normal(B)
        capacity = np.zeros((B, self.C))
        for role, usual, taste in (("width", 9.0, 1.1), ("depth", 2.1, 0.8)):
            for occurrence in range(2):
                x, has, _ = self._axis_nth(role, "log2", usual, occurrence)
                optimum = usual + taste * (0.7 * appetite + 0.7 * normal(B)) + 0.2 * (self.data - 4.3)
                short = np.maximum(optimum[:, None] - x, 0.0)
                over = np.maximum(x - optimum[:, None], 0.0)
                power = rng.uniform(1.0, 2.0, (B, 1))
                loss += self._strength(role, has)[:, None] * (
                    0.35 * short**power + rng.uniform(0, 0.3, (B, 1)) * over**1.5
                )
                capacity += np.where(has[:, None], x - usual, 0.0)
        return capacity

    def _add_heads_and_vocabulary(self, loss: FloatArray) -> None:
        rng, B, normal = self.rng, self.B, self.rng.standard_normal
        x, has, _ = self._axis("heads", "log2", 3.0)
        loss += self._strength("heads", has)[:, None] * (x - 3 - 1.5 * normal((B, 1))) ** 2 * 0.3
        vocabulary, has, _ = self._axis("vocabulary", "log2", 13.0)
        # Loss per token falls with a smaller vocabulary; a score like BLEU has its best size inside the range.
        smaller = (~self.maximize) & (rng.random(B) < 0.75)
        optimum = np.where(smaller, 8.0, 12.2 + 1.7 * normal(B) + 0.5 * (self.data - 4.3))
        # Halving the number of tokens of a sentence doubles the loss of each: that outweighs what quality adds.
        strength = self._strength("vocabulary", has) * np.where(smaller, 1.2, 0.35)
        loss += strength[:, None] * np.abs(vocabulary - optimum[:, None]) ** 1.2

    def _model_effect(self) -> tuple[FloatArray, FloatArray]:
        """Loss by backbone, and log10 of its parameters (NaN where the backbone is not searched), each B x C."""
        rng, (B, H, L) = self.rng, self.levels.shape
        here = self.roles == ROLES.index("model")
        sizes = np.nan_to_num(self.sizes, nan=8.0)
        family = rng.normal(0, 0.35, (B, 1, len(KINDS)))
        per_kind = np.take_along_axis(np.broadcast_to(family, (B, H, len(KINDS))), self.kinds, axis=2)
        # Most often a larger backbone is better; on small data or with other pretraining it need not be.
        gain = rng.normal(0.7, 0.5, (B, 1, 1))
        table = -gain * (sizes - 8.2) + per_kind + rng.normal(0, rng.uniform(0.05, 0.4, (B, 1, 1)), (B, H, L))
        dominant = lognormal(rng, STRENGTH["model"], 0.8, (B, 1))
        loss = (self._gather(table) * here[:, None, :]).sum(2) * dominant
        size = np.where(here.any(1)[:, None], (self._gather(sizes) * here[:, None, :]).sum(2), np.nan)
        return loss, size

    def _optimizer_effect(self) -> tuple[FloatArray, FloatArray]:
        rng, (B, H, L) = self.rng, self.levels.shape
        here = self.roles == ROLES.index("optimizer")
        mean_loss, mean_shift = np.zeros(len(KINDS)), np.zeros(len(KINDS))
        for name, worse, higher in (
            ("adaptive", 0, 0),
            ("sgd", 1.0, 1.8),
            ("adafactor", 0.4, 0.5),
            ("sign", 0.4, -0.6),
        ):
            mean_loss[KINDS.index(name)], mean_shift[KINDS.index(name)] = worse, higher
        strength = lognormal(rng, STRENGTH["optimizer"], 0.7, (B, 1))
        loss = self._gather(mean_loss[self.kinds] + rng.normal(0, 0.5, (B, H, L)))
        shift = self._gather(mean_shift[self.kinds] + rng.normal(0, 0.2, (B, H, L)))
        return (loss * here[:, None, :]).sum(2) * strength, (shift * here[:, None, :]).sum(2)

    def _schedule_effect(self) -> FloatArray:
        rng, (B, H, L) = self.rng, self.levels.shape
        here = self.roles == ROLES.index("scheduler")
        mean = np.zeros(len(KINDS))
        mean[KINDS.index("constant")], mean[KINDS.index("other_schedule")] = 1.2, 0.3
        table = mean[self.kinds] + rng.normal(0, 0.5, (B, H, L))
        loss = (self._gather(table) * here[:, None, :]).sum(2)
        return np.asarray(loss * lognormal(rng, STRENGTH["scheduler"], 0.8, (B, 1)))
