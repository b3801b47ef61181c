"""Draws the search spaces of simulated tasks: roles, levels in real units, candidates.

Letters: B tasks, C candidates, H hyperparameters, L levels.
"""

from __future__ import annotations

import tomllib
from pathlib import Path

import numpy as np

from hf_rlsearch._typing import BoolArray, FloatArray, IntArray
from hf_rlsearch.observation.value_features import KINDS
from hf_rlsearch.space import ROLES

MAX_HYPERPARAMETERS = 12
MAX_LEVELS = 17

FULL, LORA, SCRATCH, SGD, GENERIC = range(5)
"""Domains of tasks: full fine-tuning, adapters, training from scratch, plain SGD, anything."""
_DOMAIN_SHARES = (0.27, 0.20, 0.30, 0.10, 0.13)
_PAIRED = ("width", "adam_beta", "penalty")
_CONDITIONAL = 0.08  # share of tasks with a conditional hyperparameter

# `prior_space.toml` describes its tables.
_DATA = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
STRENGTHS: dict[str, float] = {role: strength for role, (strength, *_) in _DATA["roles"].items()}
"""Role -> usual strength of its effect."""


def lognormal(rng: np.random.Generator, median: float | FloatArray, sigma: float, size: tuple[int, ...]) -> FloatArray:
    """Log-normal draws of a shape, by their median and the standard deviation of their logarithm."""
    return np.asarray(median * np.exp(sigma * rng.standard_normal(size)))


class SpaceDraw:
    """Search spaces of one batch of tasks, being drawn."""

    def __init__(self, rng: np.random.Generator, n_tasks: int, n_candidates: int) -> None:
        self.rng, self.n_tasks, self.n_candidates = rng, n_tasks, n_candidates
        B, H, L = n_tasks, MAX_HYPERPARAMETERS, MAX_LEVELS
        self.domain = rng.choice(5, size=B, p=_DOMAIN_SHARES)
        self.maximize = rng.random(B) < 0.5
        self.roles = np.full((B, H), -1)
        self.n_levels = np.zeros((B, H), int)
        self.ordered, self.log = np.ones((B, H), bool), np.zeros((B, H), bool)
        self.levels, self.sizes = np.full((B, H, L), np.nan), np.full((B, H, L), np.nan)
        self.kinds = np.zeros((B, H, L), int)
        # Size of the model and of the data, where they are not searched: log10 of parameters and examples.
        self.size = np.clip(rng.normal(8.0, 0.8, B), 5.5, 10.5)
        self.data = np.clip(rng.normal(4.0, 1.0, B), 1.7, 7.0)
        # log10 of the optimizer steps that are planned: three epochs of batches of 8 to 64.
        self.steps = np.clip(self.data + np.log10(3) - rng.uniform(0.9, 1.8, B), 1.0, 6.0)

    def _draw_roles(self) -> None:
        rng, B, H = self.rng, self.n_tasks, MAX_HYPERPARAMETERS
        names = list(STRENGTHS)
        presence = np.array([chances for _, *chances in _DATA["roles"].values()])[:, self.domain].T  # B x roles
        # Some people search everything, some only two things: a task-wide factor on all chances.
        chosen = rng.random(presence.shape) < presence * rng.uniform(0.4, 1.6, (B, 1))
        minimal = rng.random(B) < 0.2
        chosen[minimal] = False
        chosen[minimal, names.index("learning_rate")] = True
        chosen[minimal, names.index("batch_size")] = rng.random(minimal.sum()) < 0.8
        n_numeric = rng.poisson(np.where(self.domain == GENERIC, 2.5, 0.35))
        n_categorical = rng.poisson(np.where(self.domain == GENERIC, 0.6, 0.12))
        # Roles that often come in pairs, such as the widths of embedding and feed-forward layers, or l1 and l2.
        twice = {name: chosen[:, names.index(name)] & (rng.random(B) < 0.6) for name in _PAIRED}
        role_ids = np.array([ROLES.index(n) for n in names])
        for b in range(B):
            row = list(role_ids[chosen[b]])
            row += [ROLES.index(name) for name, flags in twice.items() if flags[b]]
            row += [ROLES.index("generic_numeric")] * int(n_numeric[b])
            row += [ROLES.index("generic_categorical")] * int(n_categorical[b])
            row = row or [ROLES.index("learning_rate"), ROLES.index("generic_numeric")]
            keep = rng.permutation(len(row))[:H]
            self.roles[b, : len(keep)] = np.array(row)[keep]

    def _draw_levels(self) -> None:
        rng, (B, H) = self.rng, self.roles.shape
        categorical = np.isin(self.roles, [ROLES.index(r) for r in _DATA["kinds"]])
        count = np.clip(rng.geometric(0.16, (B, H)) + 1, 2, 12)
        count = np.where(rng.random((B, H)) < 0.3, rng.integers(2, 4, (B, H)), count)
        count = np.where(categorical, rng.integers(2, 8, (B, H)), count)
        fine = (self.roles == ROLES.index("learning_rate")) & (rng.random((B, H)) < 0.4)
        count = np.where(fine, rng.integers(7, MAX_LEVELS + 1, (B, H)), count)
        self.n_levels = np.where(self.roles >= 0, count, 0)
        self.ordered &= ~categorical
        for name in (*STRENGTHS, "generic_numeric", "generic_categorical"):
            b, h = np.nonzero(self.roles == ROLES.index(name))
            if not len(b):
                continue
            if name in _DATA["kinds"]:
                self._categorical_levels(name, b, h)
            else:
                low, high, log = self._range(name, b)
                self.log[b, h] = log
                self.levels[b, h] = _spaced(low, high, log, self.n_levels[b, h])
                self._jitter(b, h)

    def _jitter(self, b: IntArray, h: IntArray) -> None:
        """Moves inner levels of a third of the hyperparameters: lists written by hand are not evenly spaced."""
        uneven = self.rng.random(len(b)) < 0.33
        rows = self.levels[b[uneven], h[uneven]]
        with np.errstate(invalid="ignore"):
            step = np.nan_to_num(np.diff(rows, axis=1, append=np.nan))
        inner = np.arange(MAX_LEVELS) > 0
        self.levels[b[uneven], h[uneven]] = rows + step * self.rng.uniform(0, 0.6, rows.shape) * inner

    def _range(self, name: str, b: IntArray) -> tuple[FloatArray, FloatArray, BoolArray]:
        """Lowest and highest level in real units, and whether the axis is logarithmic; each of shape (n,)."""
        rng, n, u = self.rng, len(b), self.rng.uniform
        if name == "learning_rate":
            low, decades = 10 ** self._by_domain("rate_log10", b), self._by_domain("rate_decades", b)
            return low, np.minimum(low * 10**decades, 3.0), np.ones(n, bool)
        if name == "weight_decay":
            log = rng.random(n) < 0.55
            low = np.where(log, 10 ** u(-6, -2.5, n), 0.0)
            return low, np.where(log, low * 10 ** u(1, 4, n), 10 ** u(-2, -0.5, n)).clip(low * 2 + 1e-4, 0.5), log
        if name in _DATA["linear_ranges"]:
            floor, first, last = _DATA["linear_ranges"][name]
            low = np.where(rng.random(n) < 0.7, floor, u(floor, (floor + first) / 2, n))
            return low, np.maximum(u(first, last, n), low + 0.02), np.zeros(n, bool)
        (lowest, highest), (fewest, most) = _DATA["log2_ranges"][name]
        low = 2.0 ** u(lowest, highest, n)
        if name == "batch_size":
            low, factor = 2.0 ** self._by_domain("batch_log2", b), 2.0 ** self._by_domain("batch_doublings", b)
        else:
            factor = 2.0 ** u(fewest, most, n)
        return (
            low,
            low * factor,
            rng.random(n) < (0.5 if name in ("epochs", "generic_numeric", "depth", "steps") else 0.9),
        )

    def _by_domain(self, name: str, b: IntArray) -> FloatArray:
        """Draws n numbers, each uniformly from the range of its task's domain."""
        draws = [self.rng.uniform(low, high, len(b)) for low, high in _DATA["by_domain"][name]]
        return np.asarray(np.choose(self.domain[b], draws))

    def _categorical_levels(self, name: str, b: IntArray, h: IntArray) -> None:
        rng, n = self.rng, len(b)
        real = np.arange(MAX_LEVELS) < self.n_levels[b, h][:, None]
        pool = np.array([KINDS.index(kind) for kind in _DATA["kinds"][name]])
        kinds = pool[rng.integers(len(pool), size=(n, MAX_LEVELS))]
        if name == "model":  # one family, or a mixed bag
            kinds = np.where(rng.random((n, 1)) < 0.5, kinds[:, :1], kinds)
            sizes = np.clip(rng.normal(8.2, 0.6, (n, 1)) + rng.normal(0, 0.45, (n, MAX_LEVELS)), 6, 10.5)
            sizes = np.where(rng.random((n, MAX_LEVELS)) < 0.1, np.nan, sizes)
            self.sizes[b, h] = np.where(real, sizes, np.nan)
        known = rng.random((n, MAX_LEVELS)) < 0.9
        self.kinds[b, h] = np.where(real & known, kinds, 0)

    def _draw_candidates(self) -> None:
        """The whole grid in random order where it fits into C, else C random cells."""
        B, H, C, rng = self.n_tasks, MAX_HYPERPARAMETERS, self.n_candidates, self.rng
        counts = np.maximum(self.n_levels, 1)
        cells = np.prod(counts.astype(float), axis=1)
        strides = np.concatenate([np.ones((B, 1)), np.cumprod(counts.astype(float), axis=1)[:, :-1]], axis=1)
        cell = np.argsort(rng.random((B, C)) + (np.arange(C) >= cells[:, None]), axis=1).astype(float)
        grid = (np.floor(cell[:, :, None] / strides[:, None, :]) % counts[:, None, :]).astype(int)
        sampled = (rng.random((B, C, H)) * counts[:, None, :]).astype(int)
        small = cells <= C
        self.candidates = np.where(small[:, None, None], grid, sampled)
        self.mask = (np.arange(C) < cells[:, None]) | ~small[:, None]
        # Conditional spaces: the second hyperparameter exists only where the first is not at its first level.
        self.present = np.broadcast_to((self.roles >= 0)[:, None, :], self.candidates.shape).copy()
        conditional = (rng.random(B) < _CONDITIONAL) & (self.roles[:, 2] >= 0)
        absent = conditional[:, None] & (self.candidates[:, :, 0] == 0)
        self.present[:, :, 1] &= ~absent
        self.candidates[:, :, 1] = np.where(absent, 0, self.candidates[:, :, 1])


def _spaced(low: FloatArray, high: FloatArray, log: BoolArray, count: IntArray) -> FloatArray:
    """Evenly spaced levels from low to high (n x L), geometrically where `log`; NaN beyond `count`."""
    step = np.arange(MAX_LEVELS) / np.maximum(count - 1, 1)[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        geometric = low[:, None] * (np.where(low > 0, high / np.maximum(low, 1e-12), 1.0)[:, None] ** step)
    linear = low[:, None] + (high - low)[:, None] * step
    return np.where(np.arange(MAX_LEVELS) < count[:, None], np.where(log[:, None], geometric, linear), np.nan)
