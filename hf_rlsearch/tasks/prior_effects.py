"""Draws the effects of hyperparameters on the loss of a simulated task: learning-rate valley, cliff, length, capacity.

Letters: B tasks, C candidates, H hyperparameters, L levels. Sizes, batches and lengths are log2, rates log10.
"""

from __future__ import annotations

import numpy as np

from hf_rlsearch._typing import BoolArray, FloatArray
from hf_rlsearch.observation.value_features import KINDS, on_scale
from hf_rlsearch.space import ROLES
from hf_rlsearch.tasks.prior_space import FULL, LORA, SCRATCH, SGD, STRENGTHS, SpaceDraw, lognormal

# Share of the optima whose searched range lies around them, see `_into_range`; and standard deviation of their distance
# from the middle, in halves of the range.
_INFORMED, _FROM_MIDDLE = 0.85, 0.28
_PUBLISHED_STEPS = 3.3  # log10 of the steps of the fine-tunings whose rates are published


class EffectDraw(SpaceDraw):
    """Losses of the candidates of one batch. The order of the calls fixes the stream of random numbers."""

    def structured_loss(self) -> FloatArray:
        """B x C sum of the known effects, 0 for the best candidate of each task; every `_add_...` changes `loss`."""
        rng, B = self.rng, self.n_tasks
        loss = np.zeros((B, self.n_candidates))
        model_loss, model_size = self._model_effect()
        loss += model_loss
        axes, has = self._known_axes()
        capacity = self._add_capacity(loss)
        self._add_heads_and_vocabulary(loss)
        error = self._add_valley(loss, axes, has, model_size, capacity)
        self._find_cliff(error, axes["warmup"], capacity)
        self._add_schedule_length(loss, axes, has)
        self._add_regularisers(loss, axes, has)
        self._add_weak_regularisers(loss)
        loss += self._schedule_effect()
        # Effects without a known formula: generic hyperparameters, interactions.
        named = np.isin(self.roles, [ROLES.index(r) for r in ("generic_numeric", "generic_categorical")])
        loss += 0.5 * self._additive(named, strength=0.3)
        loss += lognormal(rng, 0.06, 0.9, (B, 1)) * self._random_features(self.roles >= 0)
        loss -= np.where(self.mask, loss, np.inf).min(1, keepdims=True)
        worst = np.where(self.mask & ~self.diverged, loss, -np.inf).max(1, keepdims=True)
        collapse = np.maximum(np.where(np.isfinite(worst), worst, 1.0), 1.0) * rng.uniform(0.7, 2.0, (B, 1))
        return np.where(self.diverged, collapse, loss)

    def generic_loss(self) -> FloatArray:
        """B x C sum of additive functions, Gaussian-process draws and the larger of two, 0 for the best candidate."""
        real = self.roles >= 0
        mix = self.rng.dirichlet((1.0, 0.7, 0.3), self.n_tasks)
        smooth = self._random_features(real)
        loss = mix[:, :1] * self._additive(real, 0.5) + mix[:, 1:2] * 0.6 * smooth
        loss += mix[:, 2:] * 0.8 * np.maximum(self._random_features(real), self._random_features(real))
        loss -= np.where(self.mask, loss, np.inf).min(1, keepdims=True)
        return loss

    def _known_axes(self) -> tuple[dict[str, FloatArray], dict[str, BoolArray]]:
        """Values of the roles that act together, each B x C on its own axis, and B flags: is it searched?"""
        rng, B = self.rng, self.n_tasks
        found = {
            "batch_size": self._axis("batch_size", rng.uniform(3, 7, B)),
            "accumulation": self._axis("accumulation", 0.0),
            "epochs": self._axis("epochs", 1.6),
            "warmup": self._axis("warmup", rng.choice([0.0, 0.06, 0.1], B)),
            "momentum": self._axis("momentum", 1.0),
            "weight_decay": self._axis("weight_decay", -2.0),
            "lora_rank": self._axis("lora_rank", 3.0),
            "lora_alpha": self._axis("lora_alpha", 4.0),
            "steps": self._axis("steps", self.steps),
            "model_size": self._axis("model_size", self.size - 6),
        }
        axes = {name: value for name, (value, _) in found.items()}
        axes["effective_batch"] = axes["batch_size"] + axes["accumulation"]
        return axes, {name: has for name, (_, has) in found.items()}

    def _model_effect(self) -> tuple[FloatArray, FloatArray]:
        """Loss by backbone, and log10 of its parameters (NaN where the backbone is not searched), each B x C."""
        rng, (B, H, L) = self.rng, self.levels.shape
        sizes = np.nan_to_num(self.sizes, nan=8.0)
        family = rng.normal(0, 0.35, (B, 1, len(KINDS)))
        per_kind = np.take_along_axis(np.broadcast_to(family, (B, H, len(KINDS))), self.kinds, axis=2)
        # Most often a larger backbone is better; on small data or with other pretraining it need not be.
        gain = rng.normal(0.7, 0.5, (B, 1, 1))
        table = -gain * (sizes - 8.2) + per_kind + rng.normal(0, rng.uniform(0.05, 0.4, (B, 1, 1)), (B, H, L))
        has = (self.roles == ROLES.index("model")).any(1)
        loss = self._of_role("model", table) * self._strength("model", has)
        return loss, np.where(has[:, None], self._of_role("model", sizes), np.nan)

    def _add_capacity(self, loss: FloatArray) -> FloatArray:
        """Adds width and depth; returns B x C doublings beyond the usual size."""
        rng, B, normal = self.rng, self.n_tasks, self.rng.standard_normal
        appetite = normal(B)  # of the task for larger models, by width and by depth
        capacity = np.zeros((B, self.n_candidates))
        for role, usual, taste in (("width", 9.0, 1.1), ("depth", 2.1, 0.8)):
            for occurrence in range(2):
                x, has = self._axis(role, usual, occurrence)
                wanted = usual + taste * (0.7 * appetite + 0.7 * normal(B)) + 0.2 * (self.data - 4.3)
                optimum = self._into_range(wanted[:, None], x)
                short, over = np.maximum(optimum - x, 0.0), np.maximum(x - optimum, 0.0)
                power, strength = rng.uniform(1.0, 2.0, (B, 1)), self._strength(role, has)
                loss += strength * (0.35 * short**power + rng.uniform(0, 0.3, (B, 1)) * over**1.5)
                capacity += np.where(has[:, None], x - usual, 0.0)
        return capacity

    def _add_heads_and_vocabulary(self, loss: FloatArray) -> None:
        rng, B, normal = self.rng, self.n_tasks, self.rng.standard_normal
        x, has = self._axis("heads", 3.0)
        loss += self._strength("heads", has) * (x - self._into_range(3 + 1.5 * normal((B, 1)), x)) ** 2 * 0.3
        vocabulary, has = self._axis("vocabulary", 13.0)
        # Loss per token falls with a smaller vocabulary; a score like BLEU has its best size inside the range.
        smaller = (~self.maximize) & (rng.random(B) < 0.75)
        usual = (12.2 + 1.7 * normal(B) + 0.5 * (self.data - 4.3))[:, None]
        optimum = np.where(smaller[:, None], 8.0, self._into_range(usual, vocabulary))
        # Half as many tokens per sentence double the loss of each token, which outweighs any difference in quality.
        strength = self._strength("vocabulary", has) * np.where(smaller, 1.2, 0.35)[:, None]
        loss += strength * np.abs(vocabulary - optimum) ** 1.2

    def _add_valley(
        self,
        loss: FloatArray,
        axes: dict[str, FloatArray],
        has: dict[str, BoolArray],
        model_size: FloatArray,
        capacity: FloatArray,
    ) -> FloatArray:
        """Adds learning rate and optimizer; returns B x C decades between the rate and its best place."""
        rng, B = self.rng, self.n_tasks
        lr, self.has_lr = self._axis("learning_rate", 0.0)
        base = np.choose(self.domain, [-4.5, -3.4, 0.0, -1.7, -4.0])
        reference_batch = np.where(self.domain == SCRATCH, 7.0, 5.0)[:, None]
        # The best rate of adapters hardly depends on the size of the model, that of all weights falls with it.
        slope = np.choose(self.domain, [rng.normal(-0.22, 0.12, B), rng.normal(0.0, 0.06, B), 0.0, 0.0, 0.0])
        optimizer_loss, optimizer_shift = self._optimizer_effect()
        loss += optimizer_loss
        size = np.where(np.isnan(model_size), self.size[:, None], model_size)
        size = np.where(has["model_size"][:, None], 6.0 + axes["model_size"], size)  # names count in millions
        centre = base[:, None] + slope[:, None] * (size - 8.0)
        centre = np.where(self.domain[:, None] == SCRATCH, self._scratch_rate(size), centre)
        centre = centre + (np.choose(self.domain, [0.35, 0.4, 0.25, 0.55, 1.0]) * rng.standard_normal(B))[:, None]
        centre = centre + rng.uniform(-0.05, 0.8, (B, 1)) * 0.301 * (axes["effective_batch"] - reference_batch)
        centre = centre - rng.uniform(0, 0.5, (B, 1)) * 0.301 * (axes["epochs"] - 1.6)
        centre = centre - rng.uniform(0, 0.5, (B, 1)) * 0.301 * capacity
        scale = axes["lora_alpha"] - axes["lora_rank"] - 1
        centre = centre - 0.8 * (axes["momentum"] - 1.0) - rng.uniform(0, 0.6, (B, 1)) * 0.301 * scale
        # Shorter fine-tunings need larger rates: their schedule covers as much distance in fewer steps.
        tuned = np.isin(self.domain, (FULL, LORA))[:, None]
        centre = centre + tuned * rng.uniform(0.25, 0.65, (B, 1)) * (_PUBLISHED_STEPS - axes["steps"])
        error: FloatArray = lr - (self._into_range(centre, lr) + optimizer_shift)
        left, right = lognormal(rng, 0.75, 0.35, (B, 1)), lognormal(rng, 0.55, 0.35, (B, 1))
        power = rng.uniform(1.3, 2.4, (B, 1))
        valley = np.where(error < 0, np.abs(error / left) ** power, np.abs(error / right) ** power)
        loss += self._strength("learning_rate", self.has_lr) * 0.6 * valley
        return error

    def _optimizer_effect(self) -> tuple[FloatArray, FloatArray]:
        """B x C loss by optimizer, and B x C decades by which each moves the best learning rate."""
        rng, shape = self.rng, self.levels.shape
        mean_loss, mean_shift = np.zeros(len(KINDS)), np.zeros(len(KINDS))
        for name, worse, higher in (("sgd", 1.0, 1.8), ("adafactor", 0.4, 0.5), ("sign", 0.4, -0.6)):
            mean_loss[KINDS.index(name)], mean_shift[KINDS.index(name)] = worse, higher
        strength = lognormal(rng, STRENGTHS["optimizer"], 0.7, (self.n_tasks, 1))
        loss = self._of_role("optimizer", mean_loss[self.kinds] + rng.normal(0, 0.5, shape)) * strength
        return loss, self._of_role("optimizer", mean_shift[self.kinds] + rng.normal(0, 0.2, shape))

    def _scratch_rate(self, size: FloatArray) -> FloatArray:
        """B x C log10 of the best rate of training from scratch, by log10 of the number of parameters.

        Language models follow one of three published rules per task. Translation systems, which search their vocabulary
        or heads, and a third of the others lie between the defaults of their toolkits: Sockeye's 2e-4 (Hieber et al.
        2017) and the Transformer's peak of 7e-4 (Vaswani et al. 2017).
        """
        rng, B = self.rng, self.n_tasks
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

    def _into_range(self, optimum: FloatArray, x: FloatArray) -> FloatArray:
        """Moves the optimum of most tasks towards the middle of the searched range: people search where they expect it.

        The optimum is B x C, as other hyperparameters may move it, or B x 1; x is B x C on the same axis. Of its place
        outside of the range the direction remains.
        """
        rng, B = self.rng, self.n_tasks
        real = np.where(self.mask, x, np.nan)
        low, high = np.nanmin(real, 1, keepdims=True), np.nanmax(real, 1, keepdims=True)
        half, away = (high - low) / 2, optimum.mean(1, keepdims=True) - (low + high) / 2
        kept = _FROM_MIDDLE * (np.clip(away, -half, half) + half * rng.standard_normal((B, 1)))
        informed = rng.random((B, 1)) < _INFORMED
        return np.asarray(optimum - np.where(informed, away - kept, 0.0))

    def _find_cliff(self, error: FloatArray, warmup: FloatArray, capacity: FloatArray) -> None:
        """Finds the candidates beyond an edge, which diverge or collapse; warm-up and capacity move the edge."""
        rng, B, has = self.rng, self.n_tasks, self.has_lr[:, None]
        edge = rng.uniform(0.35, 1.4, (B, 1)) + rng.uniform(0, 4, (B, 1)) * np.minimum(warmup, 0.1)
        edge = edge - 0.05 * np.maximum(capacity, 0)
        cliff = rng.random((B, 1)) < 0.65
        self.diverged = cliff & (error > edge) & has
        self.near_edge = 1 / (1 + np.exp(-np.clip((error - edge + 0.2) / 0.12, -30, 30))) * cliff * has

    def _add_schedule_length(self, loss: FloatArray, axes: dict[str, FloatArray], has: dict[str, BoolArray]) -> None:
        """Adds batch size, epochs and warm-up: how many steps there are, and how large."""
        rng, B = self.rng, self.n_tasks
        # Batch size at a fixed number of epochs: too large is under-trained, too small is noisy.
        centre = np.choose(self.domain, [4.6, 4.2, 6.6, 4.0, 5.0])
        width = np.choose(self.domain, [1.0, 1.0, 1.2, 1.5, 1.5])
        usual = centre + width * rng.standard_normal(B)
        distance = np.abs(axes["effective_batch"] - self._into_range(usual[:, None], axes["effective_batch"]))
        loss += self._strength("batch_size", has["batch_size"] | has["accumulation"]) * 0.2 * distance**1.6
        # More epochs help with falling returns, until small data is memorised.
        epochs = axes["epochs"]
        enough = (rng.uniform(1.5, 5.5, B) + 0.5 * (self.data - 4.3))[:, None]
        overfit = np.maximum(epochs - self._into_range(enough, epochs), 0)
        strength, gain = self._strength("epochs", has["epochs"]), 1.6 * np.exp2(-rng.uniform(0.5, 1.5, (B, 1)) * epochs)
        loss += strength * (gain + rng.uniform(0, 0.5, (B, 1)) * overfit)
        steps, strength = axes["steps"], self._strength("steps", has["steps"])
        needed = self._into_range((self.steps + rng.normal(0.3, 0.6, B))[:, None], steps)
        over = rng.uniform(0, 0.5, (B, 1)) * np.maximum(steps - needed, 0)
        loss += strength * ((2 * np.maximum(needed - steps, 0)) ** 1.3 + over)
        strength = self._strength("warmup", has["warmup"])
        usual_warmup = self._into_range(np.abs(rng.normal(0.08, 0.06, (B, 1))), axes["warmup"])
        loss += strength * (np.abs(axes["warmup"] - usual_warmup) / 0.1) ** 1.3

    def _add_regularisers(self, loss: FloatArray, axes: dict[str, FloatArray], has: dict[str, BoolArray]) -> None:
        """Adds momentum, weight decay and adapters."""
        rng, B, sgd = self.rng, self.n_tasks, self.domain == SGD
        strength = self._strength("momentum", has["momentum"])
        loss += (
            strength
            * np.abs(axes["momentum"] - self._into_range(rng.normal(1.0, 0.35, (B, 1)), axes["momentum"])) ** 1.5
        )
        decay, rank, alpha = axes["weight_decay"], axes["lora_rank"], axes["lora_alpha"]
        best_decay = self._into_range(rng.normal(-2.2, 1.2, (B, 1)) - 1.2 * sgd[:, None], decay)
        heavy = np.maximum(decay - np.maximum(best_decay, rng.normal(-1.3, 0.5, (B, 1))), 0)
        penalty = np.where(sgd, rng.uniform(1, 8, B), rng.uniform(0, 1, B))[:, None]
        strength = self._strength("weight_decay", has["weight_decay"])
        loss += strength * (0.1 * np.abs(decay - best_decay) + 2 * penalty * heavy)
        strength = self._strength("lora_rank", has["lora_rank"])
        loss += strength * (1.5 * np.exp2(-rank / 1.5) + rng.uniform(0, 0.15, (B, 1)) * rank)
        strength = self._strength("lora_alpha", has["lora_alpha"])
        loss += strength * 0.3 * np.abs(alpha - self._into_range(rng.normal(4.8, 1.0, (B, 1)), alpha))

    def _add_weak_regularisers(self, loss: FloatArray) -> None:
        """Adds the regularisers whose optimum depends on no other hyperparameter."""
        rng, B = self.rng, self.n_tasks
        for role, centre, spread, unit in (
            ("dropout", 0.08, 0.10, 0.15),
            ("label_smoothing", 0.07, 0.07, 0.1),
            ("layer_decay", 0.88, 0.08, 0.12),
        ):
            x, has = self._axis(role, 0.0)
            strength = self._strength(role, has)
            optimum = self._into_range(rng.normal(centre, spread, (B, 1)), x)
            distance = np.minimum(np.abs(x - optimum) / unit, 8)
            loss += strength * distance ** rng.uniform(1, 2, (B, 1))
        x, has = self._axis("gradient_clipping", 0.0)
        loss += self._strength("gradient_clipping", has) * np.abs(x - rng.normal(0, 0.6, (B, 1)))
        self._add_optimizer_settings(loss)
        x, has = self._axis("model_size", 2.0)
        loss -= self._strength("model_size", has) * rng.normal(0.7, 0.5, (B, 1)) * x
        x, has = self._axis("max_length", 7.0)
        loss += self._strength("max_length", has) * np.exp2(-(x - rng.uniform(4.5, 7.5, (B, 1))))

    def _add_optimizer_settings(self, loss: FloatArray) -> None:
        """Adds Adam's betas and epsilon, penalties of the weights, and decay of the rate."""
        rng, B = self.rng, self.n_tasks
        for occurrence in range(2):
            x, has = self._axis("adam_beta", 1.0, occurrence)
            optimum = self._into_range(rng.normal(1.3, 0.6, (B, 1)), x)
            loss += self._strength("adam_beta", has) * np.abs(x - optimum) ** 1.5
            # A penalty or an epsilon that is small enough does nothing; from a threshold on it harms.
            x, has = self._axis("penalty", -6.0, occurrence)
            threshold = self._into_range(rng.normal(-4.0, 1.2, (B, 1)), x)
            loss += self._strength("penalty", has) * (
                np.maximum(x - threshold, 0) ** 1.3 + 0.05 * np.abs(x - threshold)
            )
        x, has = self._axis("adam_epsilon", -8.0)
        threshold = self._into_range(rng.normal(-5.0, 1.5, (B, 1)), x)
        loss += self._strength("adam_epsilon", has) * np.maximum(x - threshold, 0) ** 1.3
        x, has = self._axis("rate_decay", -3.0)
        optimum = self._into_range(rng.normal(-3.5, 1.0, (B, 1)), x)
        loss += self._strength("rate_decay", has) * (0.3 * np.abs(x - optimum) + np.maximum(x - optimum, 0) ** 1.5)

    def _schedule_effect(self) -> FloatArray:
        mean = np.zeros(len(KINDS))
        mean[KINDS.index("constant")], mean[KINDS.index("other_schedule")] = 1.2, 0.3
        loss = self._of_role("scheduler", mean[self.kinds] + self.rng.normal(0, 0.5, self.levels.shape))
        return np.asarray(loss * self._strength("scheduler", np.ones(self.n_tasks, bool)))

    def _additive(self, which: BoolArray, strength: float) -> FloatArray:
        """A sum of one-dimensional functions: bumps, trends and steps, some of them flat."""
        rng, (B, H) = self.rng, self.roles.shape
        x = self._positions()
        weight = lognormal(rng, strength, 1.0, (B, H)) * (rng.random((B, H)) > 0.3) * which
        informed = rng.random((B, 1, H)) < _INFORMED
        middle = 0.5 + 0.5 * _FROM_MIDDLE * 1.4 * rng.standard_normal((B, 1, H))
        optimum = np.where(informed, middle, rng.uniform(-0.3, 1.3, (B, 1, H)))
        bump = np.abs(x - optimum) ** rng.uniform(0.8, 2.5, (B, 1, H)) * 2.5
        wave = 0.4 * np.sin(2 * np.pi * (x * rng.uniform(0.3, 1.8, (B, 1, H)) + rng.random((B, 1, H))))
        return np.asarray(((bump + wave * (rng.random((B, 1, H)) < 0.4)) * weight[:, None, :]).sum(2))

    def _random_features(self, which: BoolArray, n_features: int = 24) -> FloatArray:
        """A draw from a Gaussian process with its own length scale per hyperparameter, by random Fourier features."""
        rng, (B, H) = self.rng, self.roles.shape
        scale = lognormal(rng, 1.2, 0.8, (B, H)) * which
        frequency = rng.standard_normal((B, H, n_features)) * scale[:, :, None]
        phase = rng.uniform(0, 2 * np.pi, (B, 1, n_features))
        waves = np.cos(self._positions() @ frequency + phase)
        return np.asarray((waves * rng.standard_normal((B, 1, n_features))).sum(2) * np.sqrt(2 / n_features))

    def _positions(self) -> FloatArray:
        """Level index / (number of levels - 1), B x C x H; categories get a random place each."""
        position = self.candidates / np.maximum(self.n_levels - 1, 1)[:, None, :]
        scatter = self._gather(self.rng.random(self.levels.shape))
        return np.where(self.ordered[:, None, :], position, scatter)

    def _axis(self, role: str, default: FloatArray | float, occurrence: int = 0) -> tuple[FloatArray, BoolArray]:
        """B x C values of a role on its own axis, `default` (B) where it is not searched; and B flags: is it searched?

        `occurrence` is 1 for the second hyperparameter of the role: width of embedding and of feed-forward layers, say.
        """
        here = self.roles == ROLES.index(role)
        here &= here.cumsum(1) == occurrence + 1
        has, slot, b = here.any(1), here.argmax(1), np.arange(self.n_tasks)
        value = np.take_along_axis(self.levels[b, slot], self.candidates[b, :, slot], axis=1)
        return np.where(has[:, None], on_scale(role, value), np.asarray(default, float).reshape(-1, 1)), has

    def _strength(self, role: str, has: BoolArray) -> FloatArray:
        """B x 1 factors on the effect of a role; 0 where `has`, B flags, is False."""
        return lognormal(self.rng, STRENGTHS[role], 0.8, (self.n_tasks, 1)) * has[:, None]

    def _gather(self, table: FloatArray) -> FloatArray:
        """B x H x L table -> B x C x H, the entry of each candidate's level."""
        return np.take_along_axis(table[:, None], self.candidates[..., None], axis=3)[..., 0]

    def _of_role(self, role: str, table: FloatArray) -> FloatArray:
        """B x H x L table -> B x C, the entry of each candidate's level of a role, 0 where it is not searched."""
        return np.asarray((self._gather(table) * (self.roles == ROLES.index(role))[:, None, :]).sum(2))
