"""The prior: simulated trainings of language models, drawn in batches.

A task is a search space (roles, levels in real units) and a value for every candidate. Most tasks are built from what
is known of such trainings: a valley of learning rates whose place depends on model size, batch size, optimizer and
adapters, a cliff of divergence beyond it, saturation and over-fitting in epochs and capacity, dominant backbones, weak
regularisers. A share of tasks are generic functions, and a share carries roles that mislead, so that the policy doubts
a hint which the data contradict. `docs/prior.md` says what is drawn and from which source the numbers come.

Letters: B tasks, C candidates, H hyperparameters, L levels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hf_rlsearch._typing import BoolArray, FloatArray, IntArray
from hf_rlsearch.knowledge import KINDS
from hf_rlsearch.space import ROLES

PRIOR_VERSION = "2"
"""Raised with every change of what is drawn; the card of the weights names it."""

MAX_HYPERPARAMETERS = 12
MAX_LEVELS = 17
FACTS = ("n_parameters", "n_examples", "maximize", "lora", "from_scratch")
"""Facts about a task that a searcher may know; `TaskBatch.facts` holds them in this order, NaN where unknown."""

_FULL, _LORA, _SCRATCH, _SGD, _GENERIC = range(5)
_DOMAIN_SHARES = (0.27, 0.20, 0.30, 0.10, 0.13)
_WRONG_HINTS = 0.08
_CONDITIONAL = 0.08
_INFORMED_RANGES = 0.85

# Chance that a hyperparameter of this role is searched: full fine-tuning, adapters, from scratch, plain SGD, generic.
_PRESENCE: dict[str, tuple[float, float, float, float, float]] = {
    "learning_rate": (0.97, 0.95, 0.95, 0.90, 0.35),
    "batch_size": (0.60, 0.50, 0.45, 0.60, 0.25),
    "epochs": (0.50, 0.30, 0.12, 0.10, 0.15),
    "weight_decay": (0.40, 0.25, 0.15, 0.55, 0.20),
    "warmup": (0.35, 0.20, 0.15, 0.00, 0.10),
    "dropout": (0.20, 0.30, 0.20, 0.50, 0.15),
    "lora_rank": (0.00, 0.65, 0.00, 0.00, 0.05),
    "lora_alpha": (0.00, 0.40, 0.00, 0.00, 0.05),
    "scheduler": (0.20, 0.10, 0.10, 0.05, 0.05),
    "optimizer": (0.10, 0.05, 0.08, 0.10, 0.05),
    "momentum": (0.00, 0.00, 0.02, 0.65, 0.05),
    "label_smoothing": (0.08, 0.03, 0.10, 0.00, 0.03),
    "gradient_clipping": (0.10, 0.05, 0.08, 0.05, 0.03),
    "width": (0.02, 0.02, 0.55, 0.55, 0.15),
    "depth": (0.02, 0.02, 0.60, 0.55, 0.15),
    "heads": (0.00, 0.00, 0.45, 0.00, 0.05),
    "vocabulary": (0.00, 0.00, 0.45, 0.00, 0.05),
    "model": (0.12, 0.45, 0.05, 0.02, 0.05),
    "layer_decay": (0.10, 0.00, 0.00, 0.00, 0.02),
    "accumulation": (0.08, 0.06, 0.04, 0.00, 0.02),
    "max_length": (0.06, 0.05, 0.04, 0.00, 0.02),
}
_CATEGORICAL = ("scheduler", "optimizer", "model", "generic_categorical")

# Usual strength of each role's effect, before a task's own (log-normal) draw.
_STRENGTH: dict[str, float] = {
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

# Linear axes: the usual lowest level, and where the highest one lies.
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


@dataclass(frozen=True)
class TaskBatch:
    """B simulated tasks, padded to the same shapes.

    Attributes:
        roles: B x H index into `space.ROLES`, -1 for padding.
        ordered: B x H, True where levels are numbers.
        log: B x H, True where positions are logarithmic.
        levels: B x H x L numbers in real units, NaN for padding and for categories.
        sizes: B x H x L log10 of parameters of categorical backbones, NaN elsewhere.
        kinds: B x H x L index into `knowledge.KINDS`.
        n_levels: B x H, 0 for padding.
        candidates: B x C x H level indices.
        candidate_mask: B x C, False for padding.
        present: B x C x H, False for padding and where a conditional hyperparameter is not part of the candidate.
        utility: B x C noiseless value on the task's scale: 0 = median, 1 = best candidate.
        values: B x C the same in the metric's own units, larger is better.
        noise: B x C standard deviation of one training's value, in units of `utility`.
        spread: B, (best - median) in the metric's own units.
        median: B, median value in the metric's own units.
        facts: B x len(FACTS), NaN where unknown.
    """

    roles: IntArray
    ordered: BoolArray
    log: BoolArray
    levels: FloatArray
    sizes: FloatArray
    kinds: IntArray
    n_levels: IntArray
    candidates: IntArray
    candidate_mask: BoolArray
    present: BoolArray
    utility: FloatArray
    values: FloatArray
    noise: FloatArray
    spread: FloatArray
    median: FloatArray
    facts: FloatArray

    def __len__(self) -> int:
        """Number of tasks."""
        return len(self.roles)


def draw(rng: np.random.Generator, n_tasks: int, n_candidates: int = 256) -> TaskBatch:
    """Draws simulated tasks.

    Args:
        rng: Source of all randomness; same state, same tasks.
        n_tasks: B.
        n_candidates: C; a grid with fewer cells is enumerated and padded, a larger one is sampled.
    """
    return _Draw(rng, n_tasks, n_candidates).run()


def _lognormal(rng: np.random.Generator, median: float | FloatArray, sigma: float, size: tuple[int, ...]) -> FloatArray:
    return np.asarray(median * np.exp(sigma * rng.standard_normal(size)))


class _Draw:
    """One batch being drawn; the steps of `run` fill it from spaces to values."""

    def __init__(self, rng: np.random.Generator, n_tasks: int, n_candidates: int) -> None:
        self.rng, self.B, self.C = rng, n_tasks, n_candidates
        B, H, L = n_tasks, MAX_HYPERPARAMETERS, MAX_LEVELS
        self.domain = rng.choice(5, size=B, p=_DOMAIN_SHARES)
        self.maximize = rng.random(B) < 0.5
        self.roles = np.full((B, H), -1)
        self.n_levels = np.zeros((B, H), int)
        self.ordered, self.log = np.ones((B, H), bool), np.zeros((B, H), bool)
        self.levels, self.sizes = np.full((B, H, L), np.nan), np.full((B, H, L), np.nan)
        self.kinds = np.zeros((B, H, L), int)
        self.loss = np.zeros((B, n_candidates))
        # Size of the model and of the data, where they are not searched: log10 of parameters and examples.
        self.size = np.clip(rng.normal(8.0, 0.8, B), 5.5, 10.5)
        self.data = np.clip(rng.normal(4.3, 0.9, B), 2.5, 7.0)

    def run(self) -> TaskBatch:
        self._draw_roles()
        self._draw_levels()
        self._draw_candidates()
        structured, generic = self._structured_loss(), self._generic_loss()
        misled = (self.domain == _GENERIC) | (self.rng.random(self.B) < _WRONG_HINTS)
        self.loss = np.where(misled[:, None], generic, structured)
        return self._finish()

    # ---------------------------------------------------------------- search spaces
    def _draw_roles(self) -> None:
        rng, B, H = self.rng, self.B, MAX_HYPERPARAMETERS
        names = list(_PRESENCE)
        presence = np.array([_PRESENCE[n] for n in names])[:, self.domain].T  # B x roles
        # Some people search everything, some only two things: a task-wide factor on all chances.
        chosen = rng.random(presence.shape) < presence * rng.uniform(0.4, 1.6, (B, 1))
        minimal = rng.random(B) < 0.2
        chosen[minimal] = False
        chosen[minimal, names.index("learning_rate")] = True
        chosen[minimal, names.index("batch_size")] = rng.random(minimal.sum()) < 0.8
        n_numeric = rng.poisson(np.where(self.domain == _GENERIC, 2.5, 0.35))
        n_categorical = rng.poisson(np.where(self.domain == _GENERIC, 0.6, 0.12))
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
        for name in (*_PRESENCE, "generic_numeric", "generic_categorical"):
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
        """Hand-written level lists are not evenly spaced: moves inner levels of a third of the hyperparameters."""
        uneven = self.rng.random(len(b)) < 0.33
        rows = self.levels[b[uneven], h[uneven]]
        with np.errstate(invalid="ignore"):
            step = np.diff(rows, axis=1, append=np.nan)
        self.levels[b[uneven], h[uneven]] = rows + np.nan_to_num(step) * self.rng.uniform(0, 0.6, rows.shape) * (
            np.arange(MAX_LEVELS) > 0
        )

    def _range(self, name: str, b: IntArray) -> tuple[FloatArray, FloatArray, BoolArray]:
        """Lowest and highest level in real units, and whether the axis is logarithmic; each of shape (n,)."""
        rng, n, domain = self.rng, len(b), self.domain[b]
        u = rng.uniform
        if name == "learning_rate":
            low = 10 ** np.choose(
                domain, [u(-6.3, -4.7, n), u(-6, -3.8, n), u(-5, -3.2, n), u(-5, -2.5, n), u(-6, -3, n)]
            )
            width = np.choose(domain, [u(0.5, 2.8, n), u(0.6, 3.2, n), u(0.4, 2.2, n), u(1.0, 3.5, n), u(0.5, 3, n)])
            return low, np.minimum(low * 10**width, 3.0), np.ones(n, bool)
        if name == "weight_decay":
            log = rng.random(n) < 0.55
            low = np.where(log, 10 ** u(-6, -2.5, n), 0.0)
            return low, np.where(log, low * 10 ** u(1, 4, n), 10 ** u(-2, -0.5, n)).clip(low * 2 + 1e-4, 0.5), log
        if name in _LINEAR_RANGE:
            floor, first, last = _LINEAR_RANGE[name]
            low = np.where(rng.random(n) < 0.7, floor, u(floor, (floor + first) / 2, n))
            return low, np.maximum(u(first, last, n), low + 0.02), np.zeros(n, bool)
        (a, b_), (c, d) = _LOG2_RANGE[name]
        low = 2.0 ** u(a, b_, n)
        if name == "batch_size":  # pre-training counts sequences by the hundred
            low = low * np.where((domain == _SCRATCH) & (rng.random(n) < 0.6), 4.0, 1.0)
        return (
            low,
            low * 2.0 ** u(c, d, n),
            rng.random(n) < (0.5 if name in ("epochs", "generic_numeric", "depth") else 0.9),
        )

    def _categorical_levels(self, name: str, b: IntArray, h: IntArray) -> None:
        rng, n = self.rng, len(b)
        index = np.arange(MAX_LEVELS)
        real = index < self.n_levels[b, h][:, None]
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
        B, H, C, rng = self.B, MAX_HYPERPARAMETERS, self.C, self.rng
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

    # ---------------------------------------------------------------- helpers on candidates
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
        return _lognormal(self.rng, _STRENGTH[role], 0.8, (self.B,)) * has

    # ---------------------------------------------------------------- values from what is known
    def _structured_loss(self) -> FloatArray:
        """Sum of the known effects, each added in place; 0 for the best candidate. The order of draws is fixed."""
        rng, B = self.rng, self.B
        loss = np.zeros((B, self.C))
        model_loss, model_size = self._model_effect()
        loss += model_loss
        axes, has = self._known_axes()
        capacity = self._add_capacity(loss)
        self._add_heads_and_vocabulary(loss)
        error = self._add_valley(loss, axes, model_size, capacity)
        self._find_cliff(error, axes["warmup"], capacity)
        self._add_schedule_length(loss, axes, has)
        self._add_regularisers(loss, axes, has)
        loss += self._schedule_effect()
        # What nobody has a formula for: generic hyperparameters, interactions.
        named = np.isin(self.roles, [ROLES.index(r) for r in ("generic_numeric", "generic_categorical")])
        loss += 0.5 * self._additive(named, strength=0.3)
        loss += _lognormal(rng, 0.06, 0.9, (B, 1)) * self._random_features(self.roles >= 0)
        loss -= np.where(self.mask, loss, np.inf).min(1, keepdims=True)
        worst = np.where(self.mask & ~self.diverged, loss, -np.inf).max(1, keepdims=True)
        collapse = np.maximum(np.where(np.isfinite(worst), worst, 1.0), 1.0) * rng.uniform(0.7, 2.0, (B, 1))
        return np.where(self.diverged, collapse, loss)

    def _known_axes(self) -> tuple[dict[str, FloatArray], dict[str, BoolArray]]:
        """Values of the roles that act together, each B x C on its own axis, and B flags: is it searched?"""
        rng, B = self.rng, self.B
        read = {
            "batch_size": self._axis("batch_size", "log2", rng.uniform(3, 7, B)),
            "accumulation": self._axis("accumulation", "log2", 0.0),
            "epochs": self._axis("epochs", "log2", 1.6),
            "warmup": self._axis("warmup", "linear", rng.choice([0.0, 0.06, 0.1], B)),
            "momentum": self._axis("momentum", "complement", 1.0),
            "weight_decay": self._axis("weight_decay", "log10", -2.0),
            "lora_rank": self._axis("lora_rank", "log2", 3.0),
            "lora_alpha": self._axis("lora_alpha", "log2", 4.0),
        }
        axes = {name: value for name, (value, _, _) in read.items()}
        axes["effective_batch"] = axes["batch_size"] + axes["accumulation"]
        return axes, {name: has for name, (_, has, _) in read.items()}

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

    def _add_valley(
        self, loss: FloatArray, axes: dict[str, FloatArray], model_size: FloatArray, capacity: FloatArray
    ) -> FloatArray:
        """The learning-rate valley and the optimizer; returns B x C decades between the rate and its best place."""
        rng, B = self.rng, self.B
        lr, self.has_lr, _ = self._axis("learning_rate", "log10", 0.0)
        base = np.choose(self.domain, [-4.5, -3.55, 0.0, -1.7, -4.0])
        reference_batch = np.where(self.domain == _SCRATCH, 7.0, 5.0)[:, None]
        slope = np.where(self.domain == _SGD, 0.0, rng.normal(-0.42, 0.15, B))
        optimizer_loss, optimizer_shift = self._optimizer_effect()
        loss += optimizer_loss
        size = np.where(np.isnan(model_size), self.size[:, None], model_size)
        centre = base[:, None] + slope[:, None] * (size - 8.0)
        centre = np.where(self.domain[:, None] == _SCRATCH, self._scratch_rate(size), centre)
        centre = centre + (np.choose(self.domain, [0.35, 0.4, 0.25, 0.55, 1.0]) * rng.standard_normal(B))[:, None]
        centre = centre + rng.uniform(-0.05, 0.8, (B, 1)) * 0.301 * (axes["effective_batch"] - reference_batch)
        centre = centre - rng.uniform(0, 0.5, (B, 1)) * 0.301 * (axes["epochs"] - 1.6)
        centre = centre - rng.uniform(0, 0.5, (B, 1)) * 0.301 * capacity
        scale = axes["lora_alpha"] - axes["lora_rank"] - 1
        centre = centre - 0.8 * (axes["momentum"] - 1.0) - rng.uniform(0, 0.6, (B, 1)) * 0.301 * scale
        centre = self._into_range(centre, lr) + optimizer_shift
        error = lr - centre
        left, right = _lognormal(rng, 0.75, 0.35, (B, 1)), _lognormal(rng, 0.55, 0.35, (B, 1))
        power = rng.uniform(1.3, 2.4, (B, 1))
        valley = np.where(error < 0, np.abs(error / left) ** power, np.abs(error / right) ** power)
        strength = np.maximum(self._strength("learning_rate", self.has_lr), 0.0)[:, None]
        loss += strength * 0.6 * valley
        return np.asarray(error)

    def _scratch_rate(self, size: FloatArray) -> FloatArray:
        """B x C log10 of the best rate of training from scratch, by one of four published rules per task.

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
                np.full_like(size, -3.15),  # the Transformer's peak (Vaswani et al. 2017, 4,000 steps of warm-up)
            ]
        )
        rule = np.broadcast_to(rng.integers(len(rules), size=(B, 1)), size.shape)
        return np.clip(np.take_along_axis(rules, rule[None], axis=0)[0], -5.0, -2.3)

    def _into_range(self, optimum: FloatArray, x: FloatArray) -> FloatArray:
        """Moves most tasks' optimum towards the searched range: people search where they expect it.

        Args:
            optimum: B x C (or B x 1) place of the best value, which other hyperparameters may move.
            x: B x C value of each candidate on the same axis.
        """
        rng, B = self.rng, self.B
        real = np.where(self.mask, x, np.nan)
        low, high = np.nanmin(real, 1, keepdims=True), np.nanmax(real, 1, keepdims=True)
        reach = (high - low) / 2 * rng.uniform(0.1, 1.05, (B, 1))
        away = optimum.mean(1, keepdims=True) - (low + high) / 2
        informed = rng.random((B, 1)) < _INFORMED_RANGES
        return np.asarray(optimum - np.where(informed, away - np.clip(away, -reach, reach), 0.0))

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
        best_batch = np.choose(self.domain, centre) + np.choose(self.domain, width) * rng.standard_normal(B)
        best_batch = self._into_range(best_batch[:, None], axes["effective_batch"])
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
        rng, B, sgd = self.rng, self.B, self.domain == _SGD
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
        dominant = _lognormal(rng, _STRENGTH["model"], 0.8, (B, 1))
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
        strength = _lognormal(rng, _STRENGTH["optimizer"], 0.7, (B, 1))
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
        return np.asarray(loss * _lognormal(rng, _STRENGTH["scheduler"], 0.8, (B, 1)))

    # ---------------------------------------------------------------- values from generic functions
    def _positions(self) -> FloatArray:
        """Level index / (number of levels - 1), B x C x H; categories get a random place each."""
        position = self.candidates / np.maximum(self.n_levels - 1, 1)[:, None, :]
        scatter = self._gather(self.rng.random(self.levels.shape))
        return np.where(self.ordered[:, None, :], position, scatter)

    def _additive(self, which: BoolArray, strength: float) -> FloatArray:
        """A sum of one-dimensional functions: bumps, trends and steps, some of them flat."""
        rng, (B, H) = self.rng, self.roles.shape
        x = self._positions()
        weight = _lognormal(rng, strength, 1.0, (B, H)) * (rng.random((B, H)) > 0.3) * which
        optimum = rng.uniform(-0.3, 1.3, (B, 1, H))
        bump = np.abs(x - optimum) ** rng.uniform(0.8, 2.5, (B, 1, H)) * 2.5
        wave = 0.4 * np.sin(2 * np.pi * (x * rng.uniform(0.3, 1.8, (B, 1, H)) + rng.random((B, 1, H))))
        return np.asarray(((bump + wave * (rng.random((B, 1, H)) < 0.4)) * weight[:, None, :]).sum(2))

    def _random_features(self, which: BoolArray, n_features: int = 24) -> FloatArray:
        """A draw from a Gaussian process with its own length scale per hyperparameter, by random Fourier features."""
        rng, (B, H) = self.rng, self.roles.shape
        scale = _lognormal(rng, 1.2, 0.8, (B, H)) * which
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

    # ---------------------------------------------------------------- metric, noise, facts
    def _finish(self) -> TaskBatch:
        rng, B = self.rng, self.B
        loss = self.loss * _lognormal(rng, 1.0, 0.5, (B, 1))
        best = np.where(self.mask, loss, np.inf).min(1, keepdims=True)
        # Scores saturate at a floor (chance), losses do not; the power bends the bowl of either.
        bent = (loss - best) ** rng.uniform(0.75, 1.35, (B, 1))
        score = np.exp(-rng.uniform(0.3, 1.5, (B, 1)) * bent)
        floor, ceiling = rng.uniform(0, 0.6, (B, 1)), rng.uniform(0.5, 1.0, (B, 1))
        bounded = floor + np.maximum(ceiling - floor, 0.08) * score
        unbounded = -_lognormal(rng, 2.0, 0.7, (B, 1)) * (1 + _lognormal(rng, 0.1, 1.0, (B, 1)) * np.minimum(bent, 12))
        value = np.where(self.maximize[:, None], bounded, unbounded)
        ties = (rng.random(B) < 0.15) & self.maximize
        resolution = 1 / np.round(_lognormal(rng, 400.0, 0.8, (B, 1)))
        value = np.where(ties[:, None], np.round(value / resolution) * resolution, value)
        masked = np.where(self.mask, value, np.nan)
        best, median = np.nanmax(masked, 1, keepdims=True), np.nanmedian(masked, 1, keepdims=True)
        spread = np.maximum(best - median, 1e-3 * np.maximum(np.abs(best), 1e-3))
        utility = np.where(self.mask, (value - median) / spread, -10.0)
        noise = _lognormal(rng, 0.05, 0.9, (B, 1)) * (1 + rng.uniform(0, 6, (B, 1)) * self.near_edge)
        noise = noise * (1 + rng.uniform(0, 0.4, (B, 1)) * np.maximum(1 - utility, 0).clip(0, 5))
        return TaskBatch(
            self.roles, self.ordered & (self.roles >= 0), self.log & (self.roles >= 0), self.levels, self.sizes,
            self.kinds, self.n_levels, self.candidates, self.mask, self.present, utility, value, noise.clip(0, 1.5),
            spread[:, 0], median[:, 0], self._facts(),
        )  # fmt: skip

    def _facts(self) -> FloatArray:
        searched = (self.roles == ROLES.index("model")).any(1)
        size = np.where(searched | (self.domain == _GENERIC), np.nan, self.size)
        facts = np.stack(
            [size, self.data, self.maximize, self.domain == _LORA, np.isin(self.domain, (_SCRATCH, _SGD))], axis=1
        ).astype(float)
        facts[self.domain == _GENERIC, 3:] = 0.0
        unknown = self.rng.random(facts.shape) < np.array([0.6, 0.6, 0.05, 0.6, 0.6])
        unknown |= self.rng.random((self.B, 1)) < 0.3
        unknown[:, 2] &= self.rng.random(self.B) < 0.1
        return np.where(unknown, np.nan, facts)


def _spaced(low: FloatArray, high: FloatArray, log: BoolArray, count: IntArray) -> FloatArray:
    """Evenly spaced levels from low to high (n x L), geometrically where `log`; NaN beyond `count`."""
    step = np.arange(MAX_LEVELS) / np.maximum(count - 1, 1)[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        geometric = low[:, None] * (np.where(low > 0, high / np.maximum(low, 1e-12), 1.0)[:, None] ** step)
    linear = low[:, None] + (high - low)[:, None] * step
    return np.where(np.arange(MAX_LEVELS) < count[:, None], np.where(log[:, None], geometric, linear), np.nan)
