"""The tables: numbers of papers and of their authors' scripts, and where each is from."""

import itertools
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from hf_rlsearch._typing import Params

EPOCHS, SMOOTHING = "num_train_epochs", "label_smoothing_factor"


@dataclass(frozen=True)
class PresetSpace:
    """The ranges of a default space; every published setting of its family is one of its configurations.

    Attributes:
        learning_rate: Lowest and highest rate, searched on a logarithmic scale.
        batch_sizes: Per device.
        epochs: Fewest and most; None leaves them out.
        weight_decays: Choices.
        warmups: Choices, as a share of the training.
        others: Choices of further names that the settings of this family have.
    """

    learning_rate: tuple[float, float]
    batch_sizes: tuple[int, ...] = (8, 16, 32, 64)
    epochs: tuple[int, int] | None = (1, 5)
    weight_decays: tuple[float, ...] = (0.0, 0.01, 0.1)
    warmups: tuple[float, ...] = (0.0, 0.06, 0.1, 0.2)
    others: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)

    def __call__(self, trial: Any) -> Params:
        """Suggests a value for each name; to be given to ``hyperparameter_search`` as ``hp_space``."""
        return {
            "learning_rate": trial.suggest_float("learning_rate", *self.learning_rate, log=True),
            "per_device_train_batch_size": trial.suggest_categorical(
                "per_device_train_batch_size", list(self.batch_sizes)
            ),
            **({} if self.epochs is None else {EPOCHS: trial.suggest_int(EPOCHS, *self.epochs)}),
            "weight_decay": trial.suggest_categorical("weight_decay", list(self.weight_decays)),
            "warmup_steps": trial.suggest_categorical("warmup_steps", list(self.warmups)),
            **{name: trial.suggest_categorical(name, list(choices)) for name, choices in self.others.items()},
        }

    def without(self, names: Collection[str]) -> "PresetSpace":
        """The same ranges of fewer names.

        Args:
            names: ``num_train_epochs``, or among ``others``.
        """
        others = {name: choices for name, choices in self.others.items() if name not in names}
        return replace(self, epochs=None if EPOCHS in names else self.epochs, others=others)


@dataclass(frozen=True)
class Preset:
    """What is known about fine-tuning one family of models before anything has been trained.

    Attributes:
        name: the family.
        hp_space: suggests training arguments to an Optuna trial; may be given to ``hyperparameter_search``.
        published: recommended settings, the ones for the task first. They leave out what the source does not tell.
        sources: where the settings were published.
    """

    name: str
    hp_space: PresetSpace
    published: tuple[Params, ...]
    sources: tuple[str, ...]


_NAMES = ("learning_rate", "per_device_train_batch_size", EPOCHS, "weight_decay", "warmup_steps")
_DECAY, _BEAMS = "train.layer_decay", "gen.num_beams"
_RANK, _ALPHA, _DROPOUT = "peft.r", "peft.lora_alpha", "peft.lora_dropout"
_FLAML = "microsoft/FLAML flaml/nlp/hpo/get_grid_search_space.py (in its history), which quotes the papers"
_GRID = "microsoft/FLAML flaml/nlp/hpo/hpo_searchspace.py (in its history), hpo_space_generic_grid"
_BERT = (
    "Devlin et al. 2019 (arXiv:1810.04805), sections 4.1 to 4.4 and appendix A.3; google-research/bert optimization.py "
    "(decay 0.01), run_classifier.py (warm-up 0.1)"
)
_ROBERTA = "Liu et al. 2019 (arXiv:1907.11692), table 10; facebookresearch/fairseq examples/roberta/README.glue.md"
_ELECTRA = "Clark et al. 2020 (arXiv:2003.10555), appendix B (rates); google-research/electra configure_finetuning.py"
_DEBERTA = "microsoft/DeBERTa experiments/glue/mnli.sh, experiments/glue/rte.sh, DeBERTa/optims/args.py (decay)"
_ALBERT = (
    "Lan et al. 2020 (arXiv:1909.11942), table 14; google-research/albert run_glue.sh (GLUE), optimization.py (decay)"
)
_GPT = (
    "Radford et al. 2018, Improving language understanding by generative pre-training, section 4.1 (of the first GPT: "
    "none is published for GPT-2); openai/finetune-transformer-lm train.py (decay)"
)
_T5 = "Raffel et al. 2020 (arXiv:1910.10683), section 3.1.2: AdaFactor, constant rate 0.001, 128 sequences"
_COURSE = "huggingface/course chapters/en/chapter7/4.mdx (Marian), chapters/en/chapter7/5.mdx (mT5)"
_BART = "facebookresearch/fairseq examples/bart/README.summarization.md, examples/mbart/README.md"
_VASWANI = (
    "Vaswani et al. 2017 (arXiv:1706.03762), sections 5.3, 5.4, 6.1: from scratch, a peak rate of 7e-4 (from width 512 "
    "and 4,000 steps of warm-up out of 100,000), label smoothing 0.1, beam 4"
)
_LORA = (
    "microsoft/LoRA examples/NLU/roberta_base_mnli.sh, roberta_base_mrpc.sh, examples/NLG/README.md, of Hu et al. 2022 "
    "(arXiv:2106.09685)"
)


def _setting(*values: float, **others: Any) -> Params:
    return dict(zip(_NAMES, values, strict=True)) | others


def _grid(rates: Iterable[float], batches: Iterable[int], epochs: Iterable[int], *rest: float) -> list[Params]:
    return [_setting(*point, *rest) for point in itertools.product(rates, batches, epochs)]


_BERT_GRID = [
    _setting(2e-5, 32, 3, 0.01, 0.1),
    _setting(3e-5, 32, 3, 0.01, 0.1),
    _setting(4e-5, 32, 3, 0.01, 0.1),
    _setting(5e-5, 32, 3, 0.01, 0.1),
    *_grid((5e-5, 3e-5, 2e-5), (16, 32), (2, 4), 0.01, 0.1),
    *_grid((5e-5, 3e-5, 2e-5), (16,), (3,), 0.01, 0.1),
]
_ROBERTA_GRID = _grid((1e-5, 2e-5, 3e-5), (16, 32), (10,), 0.1, 0.06)
_ELECTRA_GRID = [
    *({**setting, _DECAY: 0.8} for setting in _grid((1e-4, 5e-5, 3e-5, 1.5e-4), (32,), (3,), 0.01, 0.1)),
    _setting(5e-5, 32, 3, 0.01, 0.1, **{_DECAY: 0.9}),  # large
]

# MNLI; the scripts give the warm-up as 500 or 1000 steps, here it is their share of the training, with 6,136 steps per
# epoch.
_DEBERTA_POINTS = [
    _setting(1.5e-5, 64, 3, 0.01, 0.05),  # v3 base
    _setting(4.5e-5, 64, 2, 0.01, 0.08),  # v3 small
    _setting(7e-6, 64, 2, 0.01, 0.04),  # v3 large
    _setting(3e-5, 64, 3, 0.01, 0.05),  # base
    _setting(1e-5, 64, 3, 0.01, 0.05),  # large
    _setting(5e-6, 64, 3, 0.01, 0.05),  # xlarge
]

# Rate, batch, epochs, warm-up; the table gives steps, which are these epochs over the training rows of the task.
_ALBERT_TASKS = {
    "cola": (1e-5, 16, 10, 0.06),
    "stsb": (2e-5, 16, 10, 0.06),
    "sst2": (1e-5, 32, 10, 0.06),
    "mnli": (3e-5, 128, 3, 0.1),
    "qnli": (1e-5, 32, 10, 0.06),
    "qqp": (5e-5, 128, 5, 0.07),
    "rte": (3e-5, 32, 10, 0.25),
    "mrpc": (2e-5, 32, 7, 0.25),
    "squad": (5e-5, 48, 2, 0.1),
    "squad_v2": (3e-5, 48, 3, 0.1),
}


def _albert(rate: float, batch: int, epochs: int, warmup: float) -> Params:
    return _setting(rate, batch, epochs, 0.01, warmup)


_LORA_POINTS = [  # the authors trained RoBERTa on eight processes: the batch size is the one of each
    _setting(5e-4, 16, 30, 0.1, 0.06, **{_RANK: 8, _ALPHA: 16}),
    _setting(4e-4, 16, 30, 0.1, 0.06, **{_RANK: 8, _ALPHA: 16}),  # MRPC, from the adapter of MNLI
    # GPT-2 medium, 500 of 26,289 steps of warm-up
    _setting(
        2e-4,
        8,
        5,
        0.01,
        0.02,
        **{_RANK: 4, _ALPHA: 32, _DROPOUT: 0.1, SMOOTHING: 0.1},
    ),
]
_T5_POINTS = [
    {
        "learning_rate": 1e-3,
        "per_device_train_batch_size": 128,
        "warmup_steps": 0.0,
        "optim": "adafactor",
        "lr_scheduler_type": "constant",
    },
    _setting(5.6e-5, 8, 8, 0.01, 0.0),  # mT5
]

# Their batches are counted in tokens and their lengths in steps: both are left out.
_BART_POINTS: list[Params] = [
    {"learning_rate": 3e-5, "weight_decay": 0.01, "warmup_steps": 0.025, SMOOTHING: 0.1},
    {"learning_rate": 3e-5, "weight_decay": 0.0, "warmup_steps": 0.0625, SMOOTHING: 0.2},  # mBART
]
_FROM_SCRATCH = {"learning_rate": 7e-4, "warmup_steps": 0.04, SMOOTHING: 0.1, _BEAMS: 4}
_T5_OTHERS = {"optim": ("adamw_torch", "adafactor"), "lr_scheduler_type": ("linear", "constant")}
_OF_TRANSLATION = {SMOOTHING: (0.0, 0.1), _BEAMS: (1, 4)}
_OF_ADAPTERS = {_RANK: (2, 4, 8, 16, 32), _ALPHA: (8, 16, 32), _DROPOUT: (0.0, 0.1), SMOOTHING: (0.0, 0.1)}
_WITH_48 = (8, 16, 32, 48, 64)
_UP_TO_128 = (8, 16, 32, 64, 128)

# The ranges are ours: around the published settings, with the values of all of them (the tests hold that).
PRESETS: dict[str, Preset] = {
    preset.name: preset
    for preset in (
        Preset("bert", PresetSpace((5e-6, 2e-4), batch_sizes=_WITH_48), tuple(_BERT_GRID), (_BERT, _FLAML)),
        Preset(
            "roberta",
            PresetSpace((3e-6, 1e-4), batch_sizes=_WITH_48, epochs=(1, 10), warmups=(0.0, 0.06, 0.1, 0.25)),
            tuple(_ROBERTA_GRID),
            (_ROBERTA, _FLAML),
        ),
        Preset(
            "electra",
            PresetSpace((1e-5, 5e-4), epochs=(1, 10), others={_DECAY: (0.8, 0.9, 1.0)}),
            tuple(_ELECTRA_GRID),
            (_ELECTRA, _FLAML),
        ),
        Preset(
            "deberta",
            PresetSpace((2e-6, 1e-4), epochs=(1, 10), warmups=(0.0, 0.04, 0.05, 0.08, 0.1, 0.21)),
            tuple(_DEBERTA_POINTS),
            (_DEBERTA,),
        ),
        Preset(
            "albert",
            PresetSpace(
                (5e-6, 1e-4), batch_sizes=(8, 16, 32, 48, 128), epochs=(1, 10), warmups=(0.0, 0.06, 0.07, 0.1, 0.25)
            ),
            tuple(_albert(*point) for point in _ALBERT_TASKS.values()),
            (_ALBERT, _FLAML),
        ),
        Preset(
            "gpt2",
            PresetSpace((1e-5, 1e-3), warmups=(0.0, 0.002, 0.06, 0.1)),
            (_setting(6.25e-5, 32, 3, 0.01, 0.002),),
            (_GPT,),
        ),
        Preset(
            "t5",
            PresetSpace((2e-5, 2e-3), batch_sizes=_UP_TO_128, epochs=(1, 10), others=_T5_OTHERS),
            tuple(_T5_POINTS),
            (_T5, _COURSE),
        ),
        Preset(
            "marian",
            PresetSpace((1e-5, 2e-3), epochs=(1, 10), warmups=(0.0, 0.04, 0.1, 0.2), others=_OF_TRANSLATION),
            (_setting(2e-5, 32, 3, 0.01, 0.0), _FROM_SCRATCH),
            (_COURSE, _VASWANI),
        ),
        Preset(
            "bart",
            PresetSpace(
                (1e-5, 2e-3),
                epochs=(1, 10),
                warmups=(0.0, 0.025, 0.04, 0.0625, 0.1),
                others=_OF_TRANSLATION | {SMOOTHING: (0.0, 0.1, 0.2)},
            ),
            (*_BART_POINTS, _FROM_SCRATCH),
            (_BART, _VASWANI),
        ),
        Preset(
            "lora",
            PresetSpace((5e-5, 3e-3), epochs=(1, 30), warmups=(0.0, 0.02, 0.06, 0.1), others=_OF_ADAPTERS),
            tuple(_LORA_POINTS),
            (_LORA,),
        ),
        Preset(
            "generic",
            PresetSpace((5e-6, 1e-3)),
            (_setting(2e-5, 32, 3, 0.01, 0.1), _setting(5e-5, 16, 3, 0.0, 0.0), _setting(1e-4, 32, 3, 0.1, 0.1)),
            (_BERT, _GRID),
        ),
    )
}

# (family, task) -> settings that were published for that very task.
FOR_TASK: dict[tuple[str, str], list[Params]] = {
    **{("albert", task): [_albert(*point)] for task, point in _ALBERT_TASKS.items()},
    **{("roberta", task): [_setting(2e-5, 16, 10, 0.1, 0.06)] for task in ("rte", "stsb")},
    **{("roberta", task): [_setting(1e-5, 16, 10, 0.1, 0.06)] for task in ("mrpc", "cola")},
    **{("roberta", task): [_setting(1e-5, 32, 10, 0.1, 0.06)] for task in ("mnli", "qnli", "sst2")},
    ("roberta", "qqp"): [_setting(1e-5, 32, 10, 0.1, 0.25)],
    ("roberta", "squad"): [_setting(1.5e-5, 48, 2, 0.01, 0.06)],
    **{
        ("electra", task): [_setting(1e-4, 32, epochs, 0.01, 0.1, **{_DECAY: 0.8})]
        for task, epochs in (("rte", 10), ("stsb", 10), ("squad", 2), ("squad_v2", 2))
    },
    # base and large, from a model that was fine-tuned on MNLI; 100 of 467 steps of warm-up
    ("deberta", "rte"): [_setting(2e-5, 32, 6, 0.01, 0.21), _setting(8e-6, 32, 6, 0.01, 0.21)],
    ("bert", "squad"): [_setting(5e-5, 32, 3, 0.01, 0.1)],
    ("bert", "squad_v2"): [_setting(5e-5, 48, 2, 0.01, 0.1)],
    ("bert", "swag"): [_setting(2e-5, 16, 3, 0.01, 0.1)],
}
