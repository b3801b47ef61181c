"""Draws the search spaces of simulated tasks: roles, levels in real units, candidates.

Letters: B tasks, C candidates, H hyperparameters, L levels.
"""

from __future__ import annotations

import numpy as np

from hf_rlsearch._typing import BoolArray, FloatArray, IntArray
from hf_rlsearch.observation.value_features import KINDS
from hf_rlsearch.space import ROLES

MAX_HYPERPARAMETERS = 12
MAX_LEVELS = 17

FULL, LORA, SCRATCH, SGD, GENERIC = range(5)
"""Domains of tasks: full fine-tuning, adapters, training from scratch, plain SGD, anything."""
_DOMAIN_SHARES = (0.27, 0.20, 0.30, 0.10, 0.13)
_CONDITIONAL = 0.08

# By role: usual strength of its effect; and the chance that it is searched in full fine-tuning, with adapters, from
# scratch, with plain SGD, in generic tasks.
ROLE_TABLE: dict[str, tuple[float, float, float, float, float, float]] = {
    "learning_rate": (1.00, 0.97, 0.95, 0.95, 0.90, 0.35),
    "batch_size": (0.22, 0.60, 0.50, 0.45, 0.60, 0.25),
    "epochs": (0.30, 0.50, 0.30, 0.12, 0.10, 0.15),
    "weight_decay": (0.08, 0.40, 0.25, 0.15, 0.55, 0.20),
    "warmup": (0.06, 0.35, 0.20, 0.15, 0.00, 0.10),
    "dropout": (0.15, 0.20, 0.30, 0.20, 0.50, 0.15),
    "lora_rank": (0.08, 0.00, 0.65, 0.00, 0.00, 0.05),
    "lora_alpha": (0.06, 0.00, 0.40, 0.00, 0.00, 0.05),
    "scheduler": (0.08, 0.20, 0.10, 0.10, 0.05, 0.05),
    "optimizer": (0.25, 0.10, 0.05, 0.08, 0.10, 0.05),
    "momentum": (0.25, 0.00, 0.00, 0.02, 0.65, 0.05),
    "label_smoothing": (0.08, 0.08, 0.03, 0.10, 0.00, 0.03),
    "gradient_clipping": (0.05, 0.10, 0.05, 0.08, 0.05, 0.03),
    "width": (0.30, 0.02, 0.02, 0.55, 0.55, 0.15),
    "depth": (0.25, 0.02, 0.02, 0.60, 0.55, 0.15),
    "heads": (0.05, 0.00, 0.00, 0.45, 0.00, 0.05),
    "vocabulary": (0.35, 0.00, 0.00, 0.45, 0.00, 0.05),
    "model": (0.80, 0.12, 0.45, 0.05, 0.02, 0.05),
    "layer_decay": (0.12, 0.10, 0.00, 0.00, 0.00, 0.02),
    "accumulation": (0.10, 0.08, 0.06, 0.04, 0.00, 0.02),
    "max_length": (0.20, 0.06, 0.05, 0.04, 0.00, 0.02),
}
_CATEGORICAL = ("scheduler", "optimizer", "model", "generic_categorical")

# Linear axes: the usual lowest level, and the range of the highest.
_LINEAR_RANGE: dict[str, tuple[float, float, float]] = {
    "warmup": (0.0, 0.1, 0.35),
    "dropout": (0.0, 0.15, 0.85),
    "label_smoothing": (0.0, 0.1, 0.3),
    "momentum": (0.0, 0.9, 0.99),
    "layer_decay": (0.6, 0.9, 1.0),
}
# Logarithmic axes: log2 of the lowest level, and doublings from there to the highest, each from a range.
_LOG2_RANGE: dict[str, tuple[tuple[float, float], tuple[float, float]]] = {
    "batch_size": ((2, 6), (1, 5)),
    "epochs": ((0, 2), (1, 4.5)),
    "lora_rank": ((0, 4), (1, 6)),
    "lora_alpha": ((2, 5), (1, 4)),
    "width": ((6, 9), (1, 4)),
    "depth": ((0, 3), (1, 3)),
    "heads": ((0, 3), (1, 3)),
    "vocabulary": ((9, 13.5), (1, 5)),
    "accumulation": ((0, 1), (1, 4)),
    "max_length": ((5, 8), (1, 4)),
    "gradient_clipping": ((-4, 0), (1, 5)),
    "generic_numeric": ((-8, 6), (0.5, 10)),
}


# By domain: lowest learning rate (log10) and decades to the highest; smallest batch (log2) and doublings to the largest
# (16 and 32 are usual in fine-tuning, hundreds in pre-training).
_RATE_LOG10 = ((-6.3, -4.7), (-6, -3.8), (-5, -3.2), (-5, -2.5), (-6, -3))
_RATE_DECADES = ((0.5, 2.5), (0.6, 2.6), (0.4, 2.2), (1.0, 3.5), (0.5, 3))
_BATCH_LOG2 = ((1, 4.5), (0, 4.5), (3, 8), (3, 6), (2, 6))
_BATCH_DOUBLINGS = ((1, 3.5), (1, 3.5), (1, 5), (1, 5.5), (1, 5))


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
        self.data = np.clip(rng.normal(4.3, 0.9, B), 2.5, 7.0)

    def _draw_roles(self) -> None:
        rng, B, H = self.rng, self.n_tasks, MAX_HYPERPARAMETERS
        names = list(ROLE_TABLE)
        presence = np.array([chances for _, *chances in ROLE_TABLE.values()])[:, self.domain].T  # B x roles
        # Some people search everything, some only two things: a task-wide factor on all chances.
        chosen = rng.random(presence.shape) < presence * rng.uniform(0.4, 1.6, (B, 1))
        minimal = rng.random(B) < 0.2
        chosen[minimal] = False
        chosen[minimal, names.index("learning_rate")] = True
        chosen[minimal, names.index("batch_size")] = rng.random(minimal.sum()) < 0.8
        n_numeric = rng.poisson(np.where(self.domain == GENERIC, 2.5, 0.35))
        n_categorical = rng.poisson(np.where(self.domain == GENERIC, 0.6, 0.12))
        second_width = chosen[:, names.index("width")] & (rng.random(B) < 0.6)
        role_ids = np.array([ROLES.index(n) for n in names])
        for b in range(B):
            row = list(role_ids[chosen[b]])
            row += [ROLES.index("width")] * int(second_width[b])
            row += [ROLES.index("generic_numeric")] * int(n_numeric[b])
            row += [ROLES.index("generic_categorical")] * int(n_categorical[b])
            row = row or [ROLES.index("learning_rate"), ROLES.index("generic_numeric")]
            keep = rng.permutation(len(row))[:H]
            self.roles[b, : len(keep)] = np.array(row)[keep]

    def _draw_levels(self) -> None:
        rng, (B, H) = self.rng, self.roles.shape
        categorical = np.isin(self.roles, [ROLES.index(r) for r in _CATEGORICAL])
        count = np.clip(rng.geometric(0.16, (B, H)) + 1, 2, 12)
        count = np.where(rng.random((B, H)) < 0.3, rng.integers(2, 4, (B, H)), count)
        count = np.where(categorical, rng.integers(2, 8, (B, H)), count)
        fine = (self.roles == ROLES.index("learning_rate")) & (rng.random((B, H)) < 0.4)
        count = np.where(fine, rng.integers(7, MAX_LEVELS + 1, (B, H)), count)
        self.n_levels = np.where(self.roles >= 0, count, 0)
        self.ordered &= ~categorical
        for name in (*ROLE_TABLE, "generic_numeric", "generic_categorical"):
            b, h = np.nonzero(self.roles == ROLES.index(name))
            if not len(b):
                continue
            if name in _CATEGORICAL:
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
            low, decades = 10 ** self._by_domain(_RATE_LOG10, b), self._by_domain(_RATE_DECADES, b)
            return low, np.minimum(low * 10**decades, 3.0), np.ones(n, bool)
        if name == "weight_decay":
            log = rng.random(n) < 0.55
            low = np.where(log, 10 ** u(-6, -2.5, n), 0.0)
            return low, np.where(log, low * 10 ** u(1, 4, n), 10 ** u(-2, -0.5, n)).clip(low * 2 + 1e-4, 0.5), log
        if name in _LINEAR_RANGE:
            floor, first, last = _LINEAR_RANGE[name]
            low = np.where(rng.random(n) < 0.7, floor, u(floor, (floor + first) / 2, n))
            return low, np.maximum(u(first, last, n), low + 0.02), np.zeros(n, bool)
        lowest, doublings = _LOG2_RANGE[name]
        low = 2.0 ** u(*lowest, n)
        if name == "batch_size":  # the draw above is replaced, not left out: the prior's stream of numbers stays
            low, factor = 2.0 ** self._by_domain(_BATCH_LOG2, b), 2.0 ** self._by_domain(_BATCH_DOUBLINGS, b)
        else:
            factor = 2.0 ** u(*doublings, n)
        return low, low * factor, rng.random(n) < (0.5 if name in ("epochs", "generic_numeric", "depth") else 0.9)

    def _by_domain(self, ranges: tuple[tuple[float, float], ...], b: IntArray) -> FloatArray:
        """Draws n numbers, each uniformly from the range of its task's domain."""
        return np.asarray(np.choose(self.domain[b], [self.rng.uniform(*r, len(b)) for r in ranges]))

    def _categorical_levels(self, name: str, b: IntArray, h: IntArray) -> None:
        rng, n = self.rng, len(b)
        real = np.arange(MAX_LEVELS) < self.n_levels[b, h][:, None]
        names = {
            "scheduler": ("linear", "cosine", "constant", "other_schedule"),
            "optimizer": ("adaptive", "adaptive", "sgd", "adafactor", "sign"),
            "model": ("encoder", "decoder", "encoder_decoder"),
            "generic_categorical": ("unknown", "unknown", "on", "off"),
        }[name]
        pool = np.array([KINDS.index(k) for k in names])
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
