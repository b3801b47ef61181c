"""Effects of how a model is trained: the learning-rate valley and its cliff, length, regularisers."""

from __future__ import annotations

import numpy as np

from hf_rlsearch._typing import BoolArray, FloatArray
from hf_rlsearch.space import ROLES
from hf_rlsearch.tasks.prior_architecture import ArchitectureDraw
from hf_rlsearch.tasks.prior_space import SCRATCH, SGD, lognormal


class TrainingDraw(ArchitectureDraw):
    """Losses by how it is trained, one batch; each method adds its effect in place."""

    def _add_valley(
        self, loss: FloatArray, axes: dict[str, FloatArray], model_size: FloatArray, capacity: FloatArray
    ) -> FloatArray:
        """The learning-rate valley and the optimizer; returns B x C decades between the rate and its best place."""
        rng, B = self.rng, self.B
        lr, self.has_lr, _ = self._axis("learning_rate", "log10", 0.0)
        base = np.choose(self.domain, [-4.5, -3.55, 0.0, -1.7, -4.0])
        reference_batch = np.where(self.domain == SCRATCH, 7.0, 5.0)[:, None]
        slope = np.where(self.domain == SGD, 0.0, rng.normal(-0.42, 0.15, B))
        optimizer_loss, optimizer_shift = self._optimizer_effect()
        loss += optimizer_loss
        size = np.where(np.isnan(model_size), self.size[:, None], model_size)
        centre = base[:, None] + slope[:, None] * (size - 8.0)
        centre = np.where(self.domain[:, None] == SCRATCH, self._scratch_rate(size), centre)
        centre = centre + (np.choose(self.domain, [0.35, 0.4, 0.25, 0.55, 1.0]) * rng.standard_normal(B))[:, None]
        centre = centre + rng.uniform(-0.05, 0.8, (B, 1)) * 0.301 * (axes["effective_batch"] - reference_batch)
        centre = centre - rng.uniform(0, 0.5, (B, 1)) * 0.301 * (axes["epochs"] - 1.6)
        centre = centre - rng.uniform(0, 0.5, (B, 1)) * 0.301 * capacity
        scale = axes["lora_alpha"] - axes["lora_rank"] - 1
        centre = centre - 0.8 * (axes["momentum"] - 1.0) - rng.uniform(0, 0.6, (B, 1)) * 0.301 * scale
        centre = self._into_range(centre, lr) + optimizer_shift
        error = lr - centre
        left, right = lognormal(rng, 0.75, 0.35, (B, 1)), lognormal(rng, 0.55, 0.35, (B, 1))
        power = rng.uniform(1.3, 2.4, (B, 1))
        valley = np.where(error < 0, np.abs(error / left) ** power, np.abs(error / right) ** power)
        strength = np.maximum(self._strength("learning_rate", self.has_lr), 0.0)[:, None]
        loss += strength * 0.6 * valley
        return np.asarray(error)

    def _scratch_rate(self, size: FloatArray) -> FloatArray:
        """B x C log10 of the best rate of training from scratch.

        Language models follow one of three published rules per task. Translation systems, which search their vocabulary
        or heads, and a third of the others lie between the defaults of their toolkits: Sockeye's 2e-4 (Hieber et al.
        2017) and the Transformer's peak of 7e-4 (Vaswani et al. 2017).

        Args:
            size: B x C log10 of parameters.
        """
        rng, B = self.rng, self.B
        tokens = size + rng.uniform(0.7, 2.3, (B, 1))  # 5 to 200 per parameter; Chinchilla's is 20
        rules = np.stack(
            [
                -3.22 - 0.45 * (size - 8.1),  # GPT-3 (Brown et al. 2020, table 2.1)
                np.log10(0.3118) - 0.125 * (np.log10(6) + size + tokens),  # DeepSeek LLM (2024, section 3.1)
                np.log10(1.79) - 0.713 * size + 0.307 * tokens,  # Step Law (Li et al. 2025)
                np.broadcast_to(rng.uniform(-3.7, -3.15, (B, 1)), size.shape),
            ]
        )
        translation = np.isin(self.roles, [ROLES.index(r) for r in ("vocabulary", "heads")]).any(1)
        translation |= rng.random(B) < 0.35
        rule = np.where(translation, len(rules) - 1, rng.integers(len(rules) - 1, size=B))
        chosen = np.take_along_axis(rules, np.broadcast_to(rule[:, None], size.shape)[None], axis=0)[0]
        return np.asarray(np.clip(chosen, -5.0, -2.3))

    def _find_cliff(self, error: FloatArray, warmup: FloatArray, capacity: FloatArray) -> None:
        """Beyond an edge trainings diverge or collapse to a constant guess; warm-up and capacity move the edge."""
        rng, B = self.rng, self.B
        edge = (
            rng.uniform(0.35, 1.4, (B, 1))
            + rng.uniform(0, 4, (B, 1)) * np.minimum(warmup, 0.1)
            - 0.05 * np.maximum(capacity, 0)
        )
        cliff = rng.random((B, 1)) < 0.65
        has = self.has_lr[:, None]
        self.diverged = cliff & (error > edge) & has
        self.near_edge = 1 / (1 + np.exp(-np.clip((error - edge + 0.2) / 0.12, -30, 30))) * cliff * has

    def _add_schedule_length(self, loss: FloatArray, axes: dict[str, FloatArray], has: dict[str, BoolArray]) -> None:
        """Batch size, epochs and warm-up: how many steps there are, and how large."""
        rng, B = self.rng, self.B
        # Batch size at a fixed number of epochs: too large is under-trained, too small is noisy.
        centre, width = ([4.6, 4.2, 6.6, 4.0, 5.0], [1.0, 1.0, 1.2, 1.5, 1.5])
        usual = np.choose(self.domain, centre) + np.choose(self.domain, width) * rng.standard_normal(B)
        best_batch = self._into_range(usual[:, None], axes["effective_batch"])
        distance = np.abs(axes["effective_batch"] - best_batch)
        loss += self._strength("batch_size", has["batch_size"] | has["accumulation"])[:, None] * 0.2 * distance**1.6
        # More epochs help with falling returns, until small data is learnt by heart.
        epochs = axes["epochs"]
        overfit = np.maximum(epochs - (rng.uniform(1.5, 5.5, B) + 0.5 * (self.data - 4.3))[:, None], 0)
        loss += self._strength("epochs", has["epochs"])[:, None] * (
            1.6 * np.exp2(-rng.uniform(0.5, 1.5, (B, 1)) * epochs) + rng.uniform(0, 0.5, (B, 1)) * overfit
        )
        loss += (
            self._strength("warmup", has["warmup"])[:, None]
            * (np.abs(axes["warmup"] - np.abs(rng.normal(0.08, 0.06, (B, 1)))) / 0.1) ** 1.3
        )

    def _add_regularisers(self, loss: FloatArray, axes: dict[str, FloatArray], has: dict[str, BoolArray]) -> None:
        """Momentum, weight decay, adapters, and the weak ones."""
        rng, B, sgd = self.rng, self.B, self.domain == SGD
        loss += (
            self._strength("momentum", has["momentum"])[:, None]
            * np.abs(axes["momentum"] - rng.normal(1.0, 0.35, (B, 1))) ** 1.5
        )
        decay, rank, alpha = axes["weight_decay"], axes["lora_rank"], axes["lora_alpha"]
        best_decay = rng.normal(-2.2, 1.2, (B, 1)) - 1.2 * sgd[:, None]
        heavy = np.maximum(decay - np.maximum(best_decay, rng.normal(-1.3, 0.5, (B, 1))), 0)
        penalty = np.where(sgd, rng.uniform(1, 8, B), rng.uniform(0, 1, B))[:, None]
        loss += self._strength("weight_decay", has["weight_decay"])[:, None] * (
            0.1 * np.abs(decay - best_decay) + 2 * penalty * heavy
        )
        loss += self._strength("lora_rank", has["lora_rank"])[:, None] * (
            1.5 * np.exp2(-rank / 1.5) + rng.uniform(0, 0.15, (B, 1)) * rank
        )
        loss += (
            self._strength("lora_alpha", has["lora_alpha"])[:, None]
            * 0.3
            * np.abs(alpha - rng.normal(4.8, 1.0, (B, 1)))
        )
        self._add_weak_regularisers(loss)

    def _add_weak_regularisers(self, loss: FloatArray) -> None:
        """Those with a best place of their own that nothing else moves."""
        rng, B = self.rng, self.B
        for role, centre, spread, unit in (
            ("dropout", 0.08, 0.10, 0.15),
            ("label_smoothing", 0.07, 0.07, 0.1),
            ("layer_decay", 0.88, 0.08, 0.12),
        ):
            x, has, _ = self._axis(role, "linear", 0.0)
            loss += self._strength(role, has)[:, None] * np.minimum(
                np.abs(x - rng.normal(centre, spread, (B, 1))) / unit, 8
            ) ** rng.uniform(1, 2, (B, 1))
        x, has, _ = self._axis("gradient_clipping", "log10", 0.0)
        loss += self._strength("gradient_clipping", has)[:, None] * np.abs(x - rng.normal(0, 0.6, (B, 1)))
        x, has, _ = self._axis("max_length", "log2", 7.0)
        loss += self._strength("max_length", has)[:, None] * np.exp2(-(x - rng.uniform(4.5, 7.5, (B, 1))))
