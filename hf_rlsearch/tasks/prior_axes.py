"""What candidates of drawn spaces mean: values of a role on its own axis."""

from __future__ import annotations

import numpy as np

from hf_rlsearch._typing import BoolArray, FloatArray, IntArray
from hf_rlsearch.space import ROLES
from hf_rlsearch.tasks.prior_space import SpaceDraw, lognormal

_INFORMED_RANGES = 0.5
# Usual strength of each role's effect, before a task's own (log-normal) draw.
STRENGTH: dict[str, float] = {
    "learning_rate": 1.0,
    "batch_size": 0.22,
    "epochs": 0.30,
    "weight_decay": 0.08,
    "warmup": 0.06,
    "dropout": 0.15,
    "lora_rank": 0.08,
    "lora_alpha": 0.06,
    "scheduler": 0.08,
    "optimizer": 0.25,
    "momentum": 0.25,
    "label_smoothing": 0.08,
    "gradient_clipping": 0.05,
    "width": 0.30,
    "depth": 0.25,
    "heads": 0.05,
    "vocabulary": 0.35,
    "model": 0.80,
    "layer_decay": 0.12,
    "accumulation": 0.10,
    "max_length": 0.20,
    "generic_numeric": 0.25,
    "generic_categorical": 0.25,
}


class AxisDraw(SpaceDraw):
    """Reads the candidates of one batch by role."""

    def _gather(self, table: FloatArray) -> FloatArray:
        """B x H x L table -> B x C x H, the entry of each candidate's level."""
        return np.take_along_axis(table[:, None], self.candidates[..., None], axis=3)[..., 0]

    def _axis(self, role: str, transform: str, default: FloatArray | float) -> tuple[FloatArray, BoolArray, IntArray]:
        """Values of a role on its own axis, B x C; where it is not searched, the task's fixed default."""
        here = self.roles == ROLES.index(role)
        slot = here.argmax(1)
        raw = np.take_along_axis(self.levels, slot[:, None, None], axis=1)[:, 0]  # B x L
        value = np.take_along_axis(
            raw, np.take_along_axis(self.candidates, slot[:, None, None], axis=2)[..., 0], axis=1
        )
        with np.errstate(divide="ignore", invalid="ignore"):
            x = {
                "log10": np.log10(np.maximum(value, 1e-7)),
                "log2": np.log2(np.maximum(value, 2.0**-8)),
                "linear": value,
                "complement": -np.log10(np.clip(1 - value, 1e-4, 1)),
            }[transform]
        has = here.any(1)
        return np.where(has[:, None], x, np.broadcast_to(np.asarray(default, float).reshape(-1, 1), x.shape)), has, slot

    def _strength(self, role: str, has: BoolArray) -> FloatArray:
        return lognormal(self.rng, STRENGTH[role], 0.8, (self.B,)) * has

    def _axis_nth(
        self, role: str, transform: str, default: float, occurrence: int
    ) -> tuple[FloatArray, BoolArray, IntArray]:
        """`_axis` of the first or second hyperparameter of a role (embedding and feed-forward width, say)."""
        here = self.roles == ROLES.index(role)
        if occurrence == 0:
            return self._axis(role, transform, default)
        hidden, first = self.roles.copy(), here.argmax(1)
        hidden[np.arange(self.B)[here.any(1)], first[here.any(1)]] = -1
        original, self.roles = self.roles, hidden
        try:
            return self._axis(role, transform, default)
        finally:
            self.roles = original

    def _into_range(self, optimum: FloatArray, x: FloatArray) -> FloatArray:
        """Moves half of the tasks' optimum towards the searched range: people search where they expect it.

        Args:
            optimum: B x C (or B x 1) place of the best value, which other hyperparameters may move.
            x: B x C value of each candidate on the same axis.
        """
        rng, B = self.rng, self.B
        real = np.where(self.mask, x, np.nan)
        low, high = np.nanmin(real, 1, keepdims=True), np.nanmax(real, 1, keepdims=True)
        reach = (high - low) / 2 * rng.uniform(0.3, 1.2, (B, 1))
        away = optimum.mean(1, keepdims=True) - (low + high) / 2
        informed = rng.random((B, 1)) < _INFORMED_RANGES
        return np.asarray(optimum - np.where(informed, away - np.clip(away, -reach, reach), 0.0))
