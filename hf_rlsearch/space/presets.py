"""Lists published fine-tuning settings by model family: a default space, first candidates and their sources.

The settings are those of papers and of their authors' scripts; the ranges around them are ours. Where a family has
several sizes, its table holds the settings of all of them: the search decides by what it measures.

The seed is in no space: choosing a seed selects the luckiest run, not a better configuration (Dodge et al. 2020,
arXiv:2002.06305).
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from hf_rlsearch._typing import Params
from hf_rlsearch.errors import ArgumentsError

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
        """Suggests a value for each name; may be given to ``hyperparameter_search`` as ``hp_space``."""
        choices = {"weight_decay": self.weight_decays, "warmup_steps": self.warmups, **self.others}
        return {
            "learning_rate": trial.suggest_float("learning_rate", *self.learning_rate, log=True),
            _BATCH: trial.suggest_categorical(_BATCH, list(self.batch_sizes)),
            **({} if self.epochs is None else {EPOCHS: trial.suggest_int(EPOCHS, *self.epochs)}),
            **{name: trial.suggest_categorical(name, list(values)) for name, values in choices.items()},
        }

    def without(self, names: Collection[str]) -> PresetSpace:
        """The same ranges without some of ``num_train_epochs`` and ``others``."""
        others = {name: choices for name, choices in self.others.items() if name not in names}
        return replace(self, epochs=None if EPOCHS in names else self.epochs, others=others)


@dataclass(frozen=True)
class Preset:
    """Published settings of one family of models, and a space around them.

    Attributes:
        name: The family.
        hp_space: Suggests training arguments to an Optuna trial; may be given to ``hyperparameter_search``.
        published: Recommended settings, those for the task first. Names that the source does not mention are left out.
        sources: Where the settings were published.
    """

    name: str
    hp_space: PresetSpace
    published: tuple[Params, ...]
    sources: tuple[str, ...]


def preset(model_type: str, task: str | None = None) -> Preset:
    """Looks up what was published about fine-tuning a family of models.

    Args:
        model_type: ``config.model_type`` of a transformers model, or ``"lora"`` for a model with adapters. A type that
            the tables do not know gets the ``"generic"`` preset.
        task: A task of GLUE such as ``"rte"``, or ``"squad"``, ``"squad_v2"``, ``"swag"``. Settings that were published
            for it come first; a task that the tables do not know changes nothing.

    Returns:
        The preset, whose settings are copies: changing them does not change the tables.

    Raises:
        ArgumentsError: ``model_type`` is no string, or the name of a family in upper case.
    """
    if not isinstance(model_type, str) or not model_type:
        raise ArgumentsError(f"model_type={model_type!r}: expected config.model_type, such as 'bert', or 'lora'.")
    family = _FAMILY.get(model_type, model_type)
    if family not in _PRESETS:
        # "BERT" must not silently become the generic preset; "modernbert" may.
        if model_type.lower() in (*MODEL_TYPES, *_FAMILY):
            raise ArgumentsError(f"model_type={model_type!r}: transformers writes it {model_type.lower()!r}.")
        family = "generic"
    found = _PRESETS[family]
    task = (task or "").lower().replace("-", "")
    for_task = FOR_TASK.get((family, _TASK_NAMES.get(task, task)), [])
    published: list[Params] = []
    for setting in (*for_task, *found.published):
        if setting not in published:
            published.append(dict(setting))
    return replace(found, published=tuple(published))


# Other values of `config.model_type` in transformers, and the family whose settings are used instead.
_FAMILY = {
    "distilbert": "bert",
    "mobilebert": "electra",  # searched by its authors from 1e-5 to 1e-4 over 2 to 10 epochs (arXiv:2004.02984)
    "camembert": "roberta",
    "xlm-roberta": "roberta",
    "deberta-v2": "deberta",
    "openai-gpt": "gpt2",
    "mt5": "t5",
    "umt5": "t5",
    "mbart": "bart",
    "m2m_100": "bart",
}
_TASK_NAMES = {"mnli_matched": "mnli", "mnli_mismatched": "mnli", "sts_b": "stsb", "sst_2": "sst2"}

_BATCH, _SCHEDULER = "per_device_train_batch_size", "lr_scheduler_type"
_DECAY, _BEAMS = "train.layer_decay", "gen.num_beams"
_RANK, _ALPHA, _DROPOUT = "peft.r", "peft.lora_alpha", "peft.lora_dropout"
_NAMES = ("learning_rate", _BATCH, EPOCHS, "weight_decay", "warmup_steps")

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


_FROM_SCRATCH = {"learning_rate": 7e-4, "warmup_steps": 0.04, SMOOTHING: 0.1, _BEAMS: 4}
# The paper's table gives steps, which are these epochs over the training rows of the task.
_ALBERT_TASKS = {
    "cola": _setting(1e-5, 16, 10, 0.01, 0.06),
    "stsb": _setting(2e-5, 16, 10, 0.01, 0.06),
    "sst2": _setting(1e-5, 32, 10, 0.01, 0.06),
    "mnli": _setting(3e-5, 128, 3, 0.01, 0.1),
    "qnli": _setting(1e-5, 32, 10, 0.01, 0.06),
    "qqp": _setting(5e-5, 128, 5, 0.01, 0.07),
    "rte": _setting(3e-5, 32, 10, 0.01, 0.25),
    "mrpc": _setting(2e-5, 32, 7, 0.01, 0.25),
    "squad": _setting(5e-5, 48, 2, 0.01, 0.1),
    "squad_v2": _setting(3e-5, 48, 3, 0.01, 0.1),
}
_PUBLISHED: dict[str, Iterable[Params]] = {
    "bert": [
        *_grid((2e-5, 3e-5, 4e-5, 5e-5), (32,), (3,), 0.01, 0.1),
        *_grid((5e-5, 3e-5, 2e-5), (16, 32), (2, 4), 0.01, 0.1),
        *_grid((5e-5, 3e-5, 2e-5), (16,), (3,), 0.01, 0.1),
    ],
    "roberta": _grid((1e-5, 2e-5, 3e-5), (16, 32), (10,), 0.1, 0.06),
    "electra": [
        *({**setting, _DECAY: 0.8} for setting in _grid((1e-4, 5e-5, 3e-5, 1.5e-4), (32,), (3,), 0.01, 0.1)),
        _setting(5e-5, 32, 3, 0.01, 0.1, **{_DECAY: 0.9}),  # large
    ],
    # MNLI, with 6,136 steps per epoch. The scripts give the warm-up as 500 or 1,000 steps, here it is their share.
    "deberta": [
        _setting(1.5e-5, 64, 3, 0.01, 0.05),  # v3 base
        _setting(4.5e-5, 64, 2, 0.01, 0.08),  # v3 small
        _setting(7e-6, 64, 2, 0.01, 0.04),  # v3 large
        _setting(3e-5, 64, 3, 0.01, 0.05),  # base
        _setting(1e-5, 64, 3, 0.01, 0.05),  # large
        _setting(5e-6, 64, 3, 0.01, 0.05),  # xlarge
    ],
    "albert": _ALBERT_TASKS.values(),
    "gpt2": [_setting(6.25e-5, 32, 3, 0.01, 0.002)],
    "t5": [
        {
            "learning_rate": 1e-3,
            _BATCH: 128,
            "warmup_steps": 0.0,
            "optim": "adafactor",
            "lr_scheduler_type": "constant",
        },
        _setting(5.6e-5, 8, 8, 0.01, 0.0),  # mT5
    ],
    "marian": [_setting(2e-5, 32, 3, 0.01, 0.0), _FROM_SCRATCH],
    # The batches of BART are counted in tokens and its trainings in steps: both are left out.
    "bart": [
        {"learning_rate": 3e-5, "weight_decay": 0.01, "warmup_steps": 0.025, SMOOTHING: 0.1},
        {"learning_rate": 3e-5, "weight_decay": 0.0, "warmup_steps": 0.0625, SMOOTHING: 0.2},  # mBART
        _FROM_SCRATCH,
    ],
    # The authors trained RoBERTa on eight processes: the batch size is that of each.
    "lora": [
        _setting(5e-4, 16, 30, 0.1, 0.06, **{_RANK: 8, _ALPHA: 16}),
        _setting(4e-4, 16, 30, 0.1, 0.06, **{_RANK: 8, _ALPHA: 16}),  # MRPC, from the adapter of MNLI
        # GPT-2 medium, 500 of 26,289 steps of warm-up
        _setting(2e-4, 8, 5, 0.01, 0.02, **{_RANK: 4, _ALPHA: 32, _DROPOUT: 0.1, SMOOTHING: 0.1}),
    ],
    "generic": [_setting(2e-5, 32, 3, 0.01, 0.1), _setting(5e-5, 16, 3, 0.0, 0.0), _setting(1e-4, 32, 3, 0.1, 0.1)],
}

_T5_OTHERS = {"optim": ("adamw_torch", "adafactor"), _SCHEDULER: ("linear", "constant")}
_LORA_OTHERS = {_RANK: (2, 4, 8, 16, 32), _ALPHA: (8, 16, 32), _DROPOUT: (0.0, 0.1), SMOOTHING: (0.0, 0.1)}
_TRANSLATION_OTHERS = {SMOOTHING: (0.0, 0.1), _BEAMS: (1, 4)}
_BART_OTHERS = _TRANSLATION_OTHERS | {SMOOTHING: (0.0, 0.1, 0.2)}
_WITH_48 = (8, 16, 32, 48, 64)

# The ranges are ours: around the published settings, with the values of all of them (the tests hold that).
_SPACES = {
    "bert": PresetSpace((5e-6, 2e-4), batch_sizes=_WITH_48),
    "roberta": PresetSpace((3e-6, 1e-4), batch_sizes=_WITH_48, epochs=(1, 10), warmups=(0.0, 0.06, 0.1, 0.25)),
    "electra": PresetSpace((1e-5, 5e-4), epochs=(1, 10), others={_DECAY: (0.8, 0.9, 1.0)}),
    "deberta": PresetSpace((2e-6, 1e-4), epochs=(1, 10), warmups=(0.0, 0.04, 0.05, 0.08, 0.1, 0.21)),
    "albert": PresetSpace(
        (5e-6, 1e-4), batch_sizes=(8, 16, 32, 48, 128), epochs=(1, 10), warmups=(0.0, 0.06, 0.07, 0.1, 0.25)
    ),
    "gpt2": PresetSpace((1e-5, 1e-3), warmups=(0.0, 0.002, 0.06, 0.1)),
    "t5": PresetSpace((2e-5, 2e-3), batch_sizes=(8, 16, 32, 64, 128), epochs=(1, 10), others=_T5_OTHERS),
    "marian": PresetSpace((1e-5, 2e-3), epochs=(1, 10), warmups=(0.0, 0.04, 0.1, 0.2), others=_TRANSLATION_OTHERS),
    "bart": PresetSpace((1e-5, 2e-3), epochs=(1, 10), warmups=(0.0, 0.025, 0.04, 0.0625, 0.1), others=_BART_OTHERS),
    "lora": PresetSpace((5e-5, 3e-3), epochs=(1, 30), warmups=(0.0, 0.02, 0.06, 0.1), others=_LORA_OTHERS),
    "generic": PresetSpace((5e-6, 1e-3)),
}
_SOURCES = {
    "bert": (_BERT, _FLAML),
    "roberta": (_ROBERTA, _FLAML),
    "electra": (_ELECTRA, _FLAML),
    "deberta": (_DEBERTA,),
    "albert": (_ALBERT, _FLAML),
    "gpt2": (_GPT,),
    "t5": (_T5, _COURSE),
    "marian": (_COURSE, _VASWANI),
    "bart": (_BART, _VASWANI),
    "lora": (_LORA,),
    "generic": (_BERT, _GRID),
}
_PRESETS = {name: Preset(name, _SPACES[name], tuple(_PUBLISHED[name]), _SOURCES[name]) for name in _SPACES}
MODEL_TYPES: tuple[str, ...] = tuple(_PRESETS)

# (family, task) -> settings that were published for that very task.
FOR_TASK: dict[tuple[str, str], list[Params]] = {
    **{("albert", task): [setting] for task, setting in _ALBERT_TASKS.items()},
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
