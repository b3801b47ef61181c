"""Values from generic functions: what nobody has a formula for."""

from __future__ import annotations

import numpy as np

from hf_rlsearch._typing import BoolArray, FloatArray
from hf_rlsearch.tasks.prior_axes import AxisDraw
from hf_rlsearch.tasks.prior_space import lognormal


class GenericDraw(AxisDraw):
    """Additive functions and Gaussian-process draws over the positions of one batch."""

    def _positions(self) -> FloatArray:
        """Level index / (number of levels - 1), B x C x H; categories get a random place each."""
        position = self.candidates / np.maximum(self.n_levels - 1, 1)[:, None, :]
        scatter = self._gather(self.rng.random(self.levels.shape))
        return np.where(self.ordered[:, None, :], position, scatter)

    def _additive(self, which: BoolArray, strength: float) -> FloatArray:
        """A sum of one-dimensional functions: bumps, trends and steps, some of them flat."""
        rng, (B, H) = self.rng, self.roles.shape
        x = self._positions()
        weight = lognormal(rng, strength, 1.0, (B, H)) * (rng.random((B, H)) > 0.3) * which
        optimum = rng.uniform(-0.3, 1.3, (B, 1, H))
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

    def _generic_loss(self) -> FloatArray:
        """Additive functions, Gaussian-process draws and products of both, with an optional cliff."""
        rng, B = self.rng, self.B
        real = self.roles >= 0
        mix = rng.dirichlet((1.0, 0.7, 0.3), B)
        smooth = self._random_features(real)
        loss = mix[:, :1] * self._additive(real, 0.5) + mix[:, 1:2] * 0.6 * smooth
        loss += mix[:, 2:] * 0.8 * np.maximum(self._random_features(real), self._random_features(real))
        loss -= np.where(self.mask, loss, np.inf).min(1, keepdims=True)
        return loss
