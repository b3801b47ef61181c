"""Defines the tables that `record_trainings.py` records: models, data, own arguments and search spaces.

The order is the order of recording: families and parts take turns, so that a run that is cut short has some of each.
Ranges are what a person would write for such a training, most of them around the usual setting, some of them off it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

PARTS = ("validation", "test", "second_test")
"""The tables that agents are chosen by, those that the first choice was tested on, and those for the next one."""


@dataclass(frozen=True)
class Hyperparameter:
    """A discretised hyperparameter of a table.

    Attributes:
        name: As `hp_space` of the product returns it.
        levels: Its values; numbers ascend.
        role: What it does in a training, by the names of `hf_rlsearch.space.roles.ROLES`.
        log: Distances of its levels are best seen on a logarithmic axis.
    """

    name: str
    levels: tuple[Any, ...]
    role: str
    log: bool = False

    @property
    def ordered(self) -> bool:
        """Whether the levels are numbers."""
        return all(isinstance(level, int | float) and not isinstance(level, bool) for level in self.levels)


@dataclass(frozen=True)
class Table:
    """A table to record: one task, and the space that its configurations are drawn from.

    Attributes:
        name: Of the table and of its file.
        part: "validation", "test" or "second_test".
        family: Tables of one kind of model and training; each family has tables in "validation" and in "test".
        model: "bert-tiny", "gpt2-tiny", "minilm", or "vit", "t5", "bart" from scratch.
        data: "topics", "docstrings", "sst2", "cola", "mrpc", "captions-en", "captions-de", "en-de", "de-en",
            "numbers-en-de", "numbers-de-en", "digits".
        metric: The objective, as evaluation names it without `eval_`.
        space: The hyperparameters.
        n_train: Training rows.
        n_eval: Rows of an evaluation.
        max_length: Tokens of a row.
        seed: Of the rows, the configurations and every training.
        args: The Trainer's own arguments where they differ from those of transformers.
        model_config: Fields of the model's configuration that differ from the checkpoint or from the small default.
        lora: Fields of a `LoraConfig`; None for full training.
        evaluations: Evaluations of one training, at equal distances.
        configurations: How many are trained.
    """

    name: str
    part: str
    family: str
    model: str
    data: str
    metric: str
    space: tuple[Hyperparameter, ...]
    n_train: int
    n_eval: int
    max_length: int
    seed: int
    args: Mapping[str, Any] = field(default_factory=dict)
    model_config: Mapping[str, Any] = field(default_factory=dict)
    lora: Mapping[str, Any] | None = None
    evaluations: int = 6
    configurations: int = 80

    @property
    def direction(self) -> str:
        """The direction of the objective."""
        return "minimize" if self.metric == "loss" else "maximize"

    def draw(self) -> list[dict[str, Any]]:
        """Draws the configurations from the grid, each once; more of them begin with the same ones."""
        sizes = [len(h.levels) for h in self.space]
        cells = np.random.default_rng(self.seed).permutation(int(np.prod(sizes)))[: self.configurations]
        places = zip(*np.unravel_index(cells, sizes), strict=True)
        return [{h.name: h.levels[i] for h, i in zip(self.space, row, strict=True)} for row in places]


def spread(low: float, high: float, n: int) -> tuple[float, ...]:
    """Levels at equal ratios, with two significant digits."""
    return tuple(float(f"{value:.1e}") for value in np.geomspace(low, high, n))


def rate(low: float, high: float, n: int = 10) -> Hyperparameter:
    """A learning rate."""
    return Hyperparameter("learning_rate", spread(low, high, n), "learning_rate", log=True)


def batch(*sizes: int) -> Hyperparameter:
    """A batch size."""
    return Hyperparameter("per_device_train_batch_size", sizes, "batch_size", log=True)


def epochs(*numbers: float) -> Hyperparameter:
    """A length of training in epochs."""
    return Hyperparameter("num_train_epochs", numbers, "epochs", log=True)


def steps(*numbers: int) -> Hyperparameter:
    """A length of training in optimizer steps."""
    return Hyperparameter("max_steps", numbers, "epochs", log=True)


def decay(*levels: float) -> Hyperparameter:
    """A weight decay."""
    return Hyperparameter("weight_decay", levels, "weight_decay")


def warmup(*levels: float) -> Hyperparameter:
    """A warm-up, as a share of the training below 1, in steps from 1 on."""
    return Hyperparameter("warmup_steps", levels, "warmup")


def schedule(*names: str) -> Hyperparameter:
    """A schedule of the learning rate."""
    return Hyperparameter("lr_scheduler_type", names, "scheduler")


def optimizer(*names: str) -> Hyperparameter:
    """An optimizer."""
    return Hyperparameter("optim", names, "optimizer")


def momentum(*levels: float) -> Hyperparameter:
    """The momentum of SGD."""
    return Hyperparameter("train.momentum", levels, "momentum")


def clipping(*levels: float) -> Hyperparameter:
    """The largest norm of a gradient."""
    return Hyperparameter("max_grad_norm", levels, "gradient_clipping", log=True)


def smoothing(*levels: float) -> Hyperparameter:
    """Label smoothing."""
    return Hyperparameter("label_smoothing_factor", levels, "label_smoothing")


def dropout(name: str, *levels: float) -> Hyperparameter:
    """A dropout of the model or of its adapter."""
    return Hyperparameter(name, levels, "dropout")


def rank(*levels: int) -> Hyperparameter:
    """The rank of an adapter."""
    return Hyperparameter("peft.r", levels, "lora_rank", log=True)


def alpha(*levels: int) -> Hyperparameter:
    """The scale of an adapter."""
    return Hyperparameter("peft.lora_alpha", levels, "lora_alpha", log=True)


def size(name: str, role: str, *levels: int) -> Hyperparameter:
    """A width, a depth or a number of heads."""
    return Hyperparameter(name, levels, role, log=True)


SCHEDULES = ("linear", "cosine", "constant")
GPT2_LORA = {"r": 8, "lora_alpha": 16, "target_modules": ["c_attn", "c_fc", "c_proj"], "task_type": "CAUSAL_LM"}
BERT_LORA = {"r": 8, "lora_alpha": 16, "target_modules": ["query", "key", "value", "dense"], "task_type": "SEQ_CLS"}

TABLES: tuple[Table, ...] = (
    Table(
        "bert-tiny_topics_adamw", "validation", "bert_tiny", "bert-tiny", "topics", "accuracy",
        (rate(2e-5, 2e-2), batch(8, 16, 32, 64), epochs(1, 2, 3, 4), decay(0.0, 0.01, 0.1),
         warmup(0.0, 0.06, 0.1, 0.2)),
        n_train=600, n_eval=300, max_length=32, seed=11,
        args={"learning_rate": 5e-4, "per_device_train_batch_size": 16},
    ),
    Table(
        "t5_de-en_adafactor", "test", "seq2seq", "t5", "de-en", "loss",
        (rate(3e-4, 1e-1), batch(8, 16, 32), epochs(1, 2, 3), warmup(0.0, 0.05, 0.1, 0.2),
         schedule("linear", "cosine", "constant_with_warmup")),
        n_train=1200, n_eval=200, max_length=16, seed=12,
        args={"learning_rate": 3e-3, "per_device_train_batch_size": 16, "optim": "adafactor"},
    ),
    Table(
        "vit_digits_adamw", "validation", "vit", "vit", "digits", "accuracy",
        (rate(1e-4, 1e-1), batch(16, 32, 64), epochs(3, 6, 10), decay(0.0, 0.01, 0.05, 0.1),
         dropout("model.hidden_dropout_prob", 0.0, 0.1, 0.2)),
        n_train=800, n_eval=400, max_length=0, seed=13,
        args={"learning_rate": 3e-3, "per_device_train_batch_size": 32, "num_train_epochs": 6},
    ),
    Table(
        "lora_bert-tiny_topics", "test", "lora_tiny", "bert-tiny", "topics", "accuracy",
        (rate(1e-4, 1e-1), rank(1, 2, 4, 8, 16, 32), alpha(4, 8, 16, 32, 64),
         dropout("peft.lora_dropout", 0.0, 0.05, 0.1, 0.2), epochs(1, 2, 3)),
        n_train=600, n_eval=300, max_length=32, seed=14, lora=BERT_LORA,
        args={"learning_rate": 3e-3, "per_device_train_batch_size": 16},
    ),
    Table(
        "gpt2-tiny_docstrings_adamw", "validation", "gpt2_tiny", "gpt2-tiny", "docstrings", "loss",
        (rate(1e-5, 1e-2), batch(4, 8, 16), epochs(1, 2, 3), decay(0.0, 0.01, 0.1),
         Hyperparameter("adam_beta2", (0.95, 0.98, 0.99, 0.999), "momentum")),
        n_train=400, n_eval=150, max_length=40, seed=15,
        args={"learning_rate": 3e-4, "per_device_train_batch_size": 8},
    ),
    Table(
        "minilm_cola_adamw", "test", "minilm", "minilm", "cola", "mcc",
        (rate(1e-5, 1e-3, 9), batch(4, 8, 16), epochs(1, 2), warmup(0.0, 0.1, 0.2), decay(0.0, 0.01, 0.1)),
        n_train=320, n_eval=200, max_length=16, seed=16, evaluations=5, model_config={"num_hidden_layers": 3},
        args={"learning_rate": 1e-4, "per_device_train_batch_size": 8, "num_train_epochs": 2},
    ),
    Table(
        "bart_numbers_adamw", "validation", "seq2seq", "bart", "numbers-en-de", "bleu",
        (rate(3e-4, 3e-2), batch(8, 16, 32), steps(60, 100, 150), smoothing(0.0, 0.1, 0.2),
         dropout("model.dropout", 0.0, 0.1, 0.3)),
        n_train=2000, n_eval=100, max_length=16, seed=17, evaluations=5,
        args={"learning_rate": 3e-3, "per_device_train_batch_size": 16, "max_steps": 100},
    ),
    Table(
        "vit_digits_sgd", "test", "vit", "vit", "digits", "accuracy",
        (rate(3e-3, 3.0), momentum(0.0, 0.5, 0.9, 0.95, 0.99), batch(8, 16, 32), schedule(*SCHEDULES), epochs(3, 5, 8)),
        n_train=900, n_eval=450, max_length=0, seed=18,
        args={"learning_rate": 5e-2, "per_device_train_batch_size": 16, "num_train_epochs": 5, "optim": "sgd"},
    ),
    Table(
        "lora_gpt2-tiny_captions", "validation", "lora_tiny", "gpt2-tiny", "captions-en", "loss",
        (rate(1e-4, 1e-1), rank(1, 2, 4, 8, 16, 32), alpha(4, 8, 16, 32, 64), batch(4, 8, 16, 32)),
        n_train=600, n_eval=200, max_length=24, seed=19, lora=GPT2_LORA,
        args={"learning_rate": 3e-3, "per_device_train_batch_size": 8, "num_train_epochs": 2},
    ),
    Table(
        "bert-tiny_sst2_optimizers", "test", "bert_tiny", "bert-tiny", "sst2", "accuracy",
        (optimizer("adamw_torch", "sgd", "adafactor", "rmsprop"), rate(1e-5, 1e-1, 13), batch(8, 16, 32),
         clipping(0.1, 0.5, 1.0, 5.0), schedule("linear", "constant")),
        n_train=800, n_eval=400, max_length=24, seed=20,
        args={"learning_rate": 5e-4, "per_device_train_batch_size": 16, "num_train_epochs": 2},
    ),
    Table(
        "minilm_sst2_adamw", "validation", "minilm", "minilm", "sst2", "accuracy",
        (rate(1e-5, 1e-3, 9), batch(4, 8, 16), epochs(1, 2), warmup(0.0, 0.1, 0.2), schedule("linear", "cosine")),
        n_train=300, n_eval=200, max_length=16, seed=21, evaluations=5, model_config={"num_hidden_layers": 3},
        args={"learning_rate": 1e-4, "per_device_train_batch_size": 8, "num_train_epochs": 2},
    ),
    Table(
        "gpt2-tiny_captions_adamw", "test", "gpt2_tiny", "gpt2-tiny", "captions-de", "loss",
        (rate(5e-5, 5e-2), batch(4, 8, 16),
         Hyperparameter("gradient_accumulation_steps", (1, 2, 4), "accumulation", log=True),
         epochs(1, 2, 3), dropout("model.resid_pdrop", 0.0, 0.1, 0.2)),
        n_train=500, n_eval=150, max_length=24, seed=22, evaluations=8,
        args={"learning_rate": 1e-3, "per_device_train_batch_size": 8, "num_train_epochs": 2},
    ),
    Table(
        "bert-tiny_sst2_sgd", "validation", "bert_tiny", "bert-tiny", "sst2", "accuracy",
        (rate(1e-3, 3.0), momentum(0.0, 0.5, 0.9, 0.95, 0.99), batch(8, 16, 32), epochs(1, 2, 3),
         decay(0.0, 0.001, 0.01)),
        n_train=800, n_eval=400, max_length=24, seed=23,
        args={"learning_rate": 5e-2, "per_device_train_batch_size": 16, "optim": "sgd"},
    ),
    Table(
        "t5_numbers_optimizers", "test", "seq2seq", "t5", "numbers-de-en", "bleu",
        (optimizer("adamw_torch", "adafactor"), rate(1e-4, 3e-2), batch(8, 16, 32),
         Hyperparameter("adam_beta2", (0.9, 0.98, 0.999), "momentum"), smoothing(0.0, 0.1)),
        n_train=4000, n_eval=100, max_length=16, seed=24, evaluations=5,
        args={"learning_rate": 3e-3, "per_device_train_batch_size": 16, "max_steps": 250},
    ),
    Table(
        "vit_digits_shape", "validation", "vit", "vit", "digits", "accuracy",
        (rate(3e-4, 3e-2, 9), size("model.hidden_size", "width", 16, 32, 48, 64),
         size("model.num_hidden_layers", "depth", 1, 2, 3, 4), size("model.num_attention_heads", "heads", 1, 2, 4),
         smoothing(0.0, 0.1)),
        n_train=800, n_eval=450, max_length=0, seed=25,
        args={"learning_rate": 3e-3, "per_device_train_batch_size": 32, "num_train_epochs": 8},
    ),
    Table(
        "minilm_sst2_lora", "test", "minilm", "minilm", "sst2", "accuracy",
        (rate(1e-4, 1e-2, 9), rank(2, 4, 8, 16), alpha(8, 16, 32, 64), batch(4, 8, 16), epochs(1, 2)),
        n_train=300, n_eval=200, max_length=16, seed=26, evaluations=5, lora=BERT_LORA,
        model_config={"num_hidden_layers": 3},
        args={"learning_rate": 1e-3, "per_device_train_batch_size": 8, "num_train_epochs": 2},
    ),
    Table(
        "t5_en-de_adamw", "validation", "seq2seq", "t5", "en-de", "loss",
        (rate(1e-4, 3e-2), batch(8, 16, 32, 64), epochs(1, 2, 3), dropout("model.dropout_rate", 0.0, 0.1, 0.2),
         warmup(0, 20, 50, 100)),
        n_train=1200, n_eval=200, max_length=16, seed=27,
        args={"learning_rate": 3e-3, "per_device_train_batch_size": 16},
    ),
    Table(
        "bert-tiny_topics_adafactor", "test", "bert_tiny", "bert-tiny", "topics", "f1",
        (rate(1e-4, 1e-1), batch(8, 16, 32, 64), warmup(0.0, 0.1, 0.3), schedule(*SCHEDULES), epochs(1, 2, 4)),
        n_train=600, n_eval=350, max_length=32, seed=28,
        args={"learning_rate": 3e-3, "per_device_train_batch_size": 16, "optim": "adafactor"},
    ),
    Table(
        "gpt2-tiny_captions_adafactor", "validation", "gpt2_tiny", "gpt2-tiny", "captions-en", "loss",
        (rate(1e-4, 1e-1), batch(4, 8, 16), steps(50, 100, 200, 400), schedule("linear", "cosine", "constant"),
         clipping(0.3, 1.0, 3.0)),
        n_train=1200, n_eval=150, max_length=24, seed=29,
        args={"learning_rate": 1e-3, "per_device_train_batch_size": 8, "max_steps": 200, "optim": "adafactor"},
    ),
    Table(
        "lora_gpt2-tiny_docstrings", "test", "lora_tiny", "gpt2-tiny", "docstrings", "loss",
        (rate(1e-4, 5e-2), rank(2, 4, 8, 16), alpha(8, 16, 32), batch(4, 8, 16), decay(0.0, 0.01, 0.1)),
        n_train=400, n_eval=150, max_length=32, seed=30, lora=GPT2_LORA,
        args={"learning_rate": 3e-3, "per_device_train_batch_size": 8, "num_train_epochs": 2},
    ),
    Table(
        "minilm_mrpc_adamw", "validation", "minilm", "minilm", "mrpc", "f1",
        (rate(2e-5, 2e-3, 9), batch(4, 8, 16), epochs(1, 2), dropout("model.hidden_dropout_prob", 0.0, 0.1, 0.2),
         Hyperparameter("train.frozen_layers", (0, 1), "generic_numeric")),
        n_train=200, n_eval=150, max_length=40, seed=31, evaluations=5, model_config={"num_hidden_layers": 2},
        args={"learning_rate": 2e-4, "per_device_train_batch_size": 8, "num_train_epochs": 2},
    ),
    Table(
        "vit_digits_long", "test", "vit", "vit", "digits", "loss",
        (rate(3e-5, 3e-2), batch(4, 8, 16), steps(250, 500, 1000, 2000), warmup(0, 50, 200),
         Hyperparameter("adam_epsilon", (1e-8, 1e-6, 1e-4), "generic_numeric", log=True)),
        n_train=1000, n_eval=400, max_length=0, seed=32, evaluations=10,
        args={"learning_rate": 1e-3, "per_device_train_batch_size": 8, "max_steps": 1000},
    ),
    Table(
        "bert-tiny_topics_layers", "validation", "bert_tiny", "bert-tiny", "topics", "loss",
        (rate(3e-5, 3e-3), Hyperparameter("train.layer_decay", (0.5, 0.65, 0.8, 0.9, 1.0), "layer_decay"),
         Hyperparameter("train.frozen_layers", (0, 1, 2), "generic_numeric"),
         Hyperparameter("train.reinit_layers", (0, 1, 2), "generic_numeric"),
         dropout("model.hidden_dropout_prob", 0.0, 0.1, 0.2, 0.3), batch(8, 16, 32)),
        n_train=700, n_eval=350, max_length=32, seed=33,
        args={"learning_rate": 5e-4, "per_device_train_batch_size": 16, "num_train_epochs": 3},
    ),
    Table(
        "gpt2-tiny_topics_adamw", "test", "gpt2_tiny", "gpt2-tiny", "topics", "accuracy",
        (rate(1e-5, 1e-2), batch(8, 16, 32), epochs(1, 2, 3),
         Hyperparameter("adam_beta1", (0.8, 0.9, 0.95), "momentum"), decay(0.0, 0.01, 0.1)),
        n_train=500, n_eval=300, max_length=32, seed=34,
        args={"learning_rate": 3e-4, "per_device_train_batch_size": 16},
    ),
    Table(
        "lora_bert-tiny_sst2", "second_test", "lora_tiny", "bert-tiny", "sst2", "accuracy",
        (rate(3e-5, 3e-2), rank(2, 4, 8, 16, 32), alpha(8, 16, 32, 64), warmup(0.0, 0.1), batch(8, 16, 32),
         schedule("linear", "cosine")),
        n_train=600, n_eval=300, max_length=24, seed=35, lora=BERT_LORA,
        args={"learning_rate": 1e-3, "per_device_train_batch_size": 16, "num_train_epochs": 2},
    ),
    Table(
        "minilm_sst2_adafactor", "second_test", "minilm", "minilm", "sst2", "accuracy",
        (rate(3e-5, 3e-3, 9), batch(4, 8, 16), epochs(1, 2), warmup(0.0, 0.1, 0.2), schedule(*SCHEDULES)),
        n_train=300, n_eval=200, max_length=24, seed=36, evaluations=5,
        args={"learning_rate": 4e-4, "per_device_train_batch_size": 8, "num_train_epochs": 2, "optim": "adafactor"},
    ),
    Table(
        "t5_de-en_shape", "second_test", "seq2seq", "t5", "de-en", "loss",
        (rate(3e-4, 3e-2, 9), size("model.d_model", "width", 32, 64, 96), size("model.num_layers", "depth", 1, 2, 3),
         size("model.d_ff", "width", 64, 128, 256), batch(16, 32)),
        n_train=1200, n_eval=200, max_length=16, seed=37,
        args={"learning_rate": 3e-3, "per_device_train_batch_size": 16, "num_train_epochs": 2},
    ),
    Table(
        "bart_en-de_sgd", "second_test", "seq2seq", "bart", "en-de", "loss",
        (rate(1e-2, 10.0), momentum(0.0, 0.5, 0.9, 0.95), batch(8, 16, 32), clipping(0.1, 1.0, 10.0),
         dropout("model.dropout", 0.0, 0.1)),
        n_train=1200, n_eval=200, max_length=16, seed=38,
        args={"learning_rate": 0.3, "per_device_train_batch_size": 16, "num_train_epochs": 2, "optim": "sgd"},
    ),
    Table(
        "minilm_sst2_lora_deep", "second_test", "minilm", "minilm", "sst2", "accuracy",
        (rate(1e-4, 1e-2, 9), rank(4, 8, 16, 32), alpha(16, 32, 64), dropout("peft.lora_dropout", 0.0, 0.1),
         batch(4, 8, 16), epochs(1, 2)),
        n_train=300, n_eval=200, max_length=24, seed=39, evaluations=5, lora=BERT_LORA,
        args={"learning_rate": 3e-3, "per_device_train_batch_size": 8, "num_train_epochs": 2},
    ),
    Table(
        "bert-tiny_sst2_adamw", "second_test", "bert_tiny", "bert-tiny", "sst2", "accuracy",
        (rate(1e-5, 1e-2), batch(8, 16, 32, 64), epochs(1, 2, 3),
         dropout("model.hidden_dropout_prob", 0.0, 0.1, 0.2, 0.3), schedule(*SCHEDULES)),
        n_train=800, n_eval=400, max_length=24, seed=40,
        args={"learning_rate": 5e-4, "per_device_train_batch_size": 16},
    ),
)  # fmt: skip


def check_tables(tables: tuple[Table, ...] = TABLES) -> None:
    """Refuses definitions that are no fair yardstick.

    Raises:
        ValueError: A name or a seed twice, a part that is none, a family in one half only, or a grid that is too small.
    """
    for kind, values in (("name", [t.name for t in tables]), ("seed", [t.seed for t in tables])):
        if twice := [value for value, n in Counter(values).items() if n > 1]:
            raise ValueError(f"two tables have the {kind} {twice[0]!r}.")
    for family in {t.family for t in tables}:
        parts = {t.part for t in tables if t.family == family}
        if not set(PARTS[:2]) <= parts <= set(PARTS):
            raise ValueError(f"family {family!r} has tables in {sorted(parts)}, expected both of {PARTS[:2]}.")
    for table in tables:
        n_cells = int(np.prod([len(h.levels) for h in table.space]))
        if n_cells < table.configurations:
            raise ValueError(
                f"table {table.name!r} has {n_cells} cells for {table.configurations} configurations: add levels."
            )
