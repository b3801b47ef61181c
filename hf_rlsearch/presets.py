"""Published fine-tuning settings by model family, as plain data: a default space, first candidates, their sources.

Numbers are those that the papers and their authors' scripts recommend. Where a family has several sizes the table holds
the settings of all of them: a search starts at published points and decides by what it measures.

The seed is in no space: choosing one selects the luckiest run, not a better configuration (Dodge et al. 2020,
arXiv:2002.06305).
"""

import difflib
import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from hf_rlsearch._typing import Params
from hf_rlsearch.errors import ArgumentsError

_NAMES = ("learning_rate", "per_device_train_batch_size", "num_train_epochs", "weight_decay", "warmup_steps")

_FLAML = "FLAML, nlp/huggingface/utils get_grid_search_space.py, which collects the papers' tables"
_BERT = "Devlin et al. 2019 (arXiv:1810.04805), appendix A.3; google-research/bert run_classifier.py (warm-up, decay)"
_ROBERTA = "Liu et al. 2019 (arXiv:1907.11692), table 10; fairseq examples/roberta/README.glue.md"
_ELECTRA = "Clark et al. 2020 (arXiv:2003.10555), appendix B; google-research/electra configure_finetuning.py"
_DEBERTA = "He et al. 2021 (arXiv:2006.03654), table 9; microsoft/DeBERTa experiments/glue/mnli.sh"
_ALBERT = "Lan et al. 2020 (arXiv:1909.11942), table 14"
_GPT = "Radford et al. 2018, Improving language understanding by generative pre-training, section 4.1"
_T5 = "Raffel et al. 2020 (arXiv:1910.10683), section 3.1: constant rate 1e-3 (Adafactor), batch 128"
_COURSE = "Hugging Face course, chapter 7: translation (Marian), summarization (mT5)"
_VASWANI = (
    "Vaswani et al. 2017 (arXiv:1706.03762), sections 5.3 and 5.4: label smoothing 0.1, peak rate 7e-4, warm-up 4 %"
)
_LORA = "Hu et al. 2022 (arXiv:2106.09685), appendix D; microsoft/LoRA examples/NLU and examples/NLG"


@dataclass(frozen=True)
class Preset:
    """What is known about fine-tuning one family of models before anything has been trained.

    Attributes:
        name: the family.
        hp_space: suggests training arguments to an Optuna trial; may be given to ``hyperparameter_search``.
        published: recommended settings, the ones for the task first. They may also name hyperparameters outside of
            ``hp_space`` (``peft.r``, ``label_smoothing_factor``), for spaces that search them.
        sources: where the settings were published.
    """

    name: str
    hp_space: Callable[[Any], Params]
    published: tuple[Params, ...]
    sources: tuple[str, ...]


@dataclass(frozen=True)
class _Box:
    """The ranges of a default space; every published value lies inside."""

    learning_rate: tuple[float, float]
    batch_sizes: tuple[int, ...] = (8, 16, 32, 64)
    epochs: tuple[int, int] = (1, 5)
    weight_decays: tuple[float, ...] = (0.0, 0.01, 0.1)
    warmups: tuple[float, ...] = (0.0, 0.06, 0.1, 0.2)

    def __call__(self, trial: Any) -> Params:
        """Suggests a value for each of the five training arguments; a warm-up below 1 is a share of the training."""
        return {
            "learning_rate": trial.suggest_float("learning_rate", *self.learning_rate, log=True),
            "per_device_train_batch_size": trial.suggest_categorical(
                "per_device_train_batch_size", list(self.batch_sizes)
            ),
            "num_train_epochs": trial.suggest_int("num_train_epochs", *self.epochs),
            "weight_decay": trial.suggest_categorical("weight_decay", list(self.weight_decays)),
            "warmup_steps": trial.suggest_categorical("warmup_steps", list(self.warmups)),
        }


def _setting(*values: float, **others: Any) -> Params:
    return dict(zip(_NAMES, values, strict=True)) | others


def _grid(rates: Iterable[float], batches: Iterable[int], epochs: Iterable[int], *rest: float) -> list[Params]:
    return [_setting(*point, *rest) for point in itertools.product(rates, batches, epochs)]


_BERT_GRID = [
    _setting(2e-5, 32, 3, 0.01, 0.1),
    _setting(3e-5, 32, 3, 0.01, 0.1),
    _setting(5e-5, 32, 3, 0.01, 0.1),
    *_grid((5e-5, 3e-5, 2e-5), (16, 32), (2, 4), 0.01, 0.1),
    *_grid((5e-5, 3e-5, 2e-5), (16,), (3,), 0.01, 0.1),
]
_ROBERTA_GRID = _grid((1e-5, 2e-5, 3e-5), (16, 32), (10,), 0.1, 0.06)
_ELECTRA_GRID = _grid((1e-4, 5e-5, 3e-5, 1.5e-4), (32,), (3,), 0.01, 0.1)
_DEBERTA_GRID = [
    _setting(1.5e-5, 64, 3, 0.01, 0.1),  # v3 base, MNLI
    _setting(4.5e-5, 64, 2, 0.01, 0.1),  # v3 small, MNLI
    _setting(7e-6, 64, 2, 0.01, 0.1),  # v3 large, MNLI
    *_grid((2e-5, 3e-5, 4e-5, 1e-5, 5e-6), (32,), (6,), 0.01, 0.1),
]
_ALBERT_TASKS = {
    "cola": (1e-5, 16),
    "stsb": (2e-5, 16),
    "sst2": (1e-5, 32),
    "mnli": (3e-5, 128),
    "qnli": (1e-5, 32),
    "qqp": (5e-5, 128),
    "rte": (3e-5, 32),
    "mrpc": (2e-5, 32),
}
_LORA_POINTS = [  # the authors trained on eight processes: the batch size is the one of each
    _setting(5e-4, 16, 30, 0.1, 0.06, **{"peft.r": 8, "peft.lora_alpha": 16}),
    _setting(4e-4, 16, 30, 0.1, 0.06, **{"peft.r": 8, "peft.lora_alpha": 16}),
    _setting(
        2e-4,
        8,
        5,
        0.01,
        0.1,
        **{"peft.r": 4, "peft.lora_alpha": 32, "peft.lora_dropout": 0.1, "label_smoothing_factor": 0.1},
    ),
]

_PRESETS: dict[str, Preset] = {
    preset.name: preset
    for preset in (
        Preset("bert", _Box((5e-6, 2e-4)), tuple(_BERT_GRID), (_BERT, _FLAML)),
        Preset("roberta", _Box((3e-6, 1e-4), epochs=(1, 10)), tuple(_ROBERTA_GRID), (_ROBERTA, _FLAML)),
        Preset("electra", _Box((1e-5, 5e-4), epochs=(1, 10)), tuple(_ELECTRA_GRID), (_ELECTRA, _FLAML)),
        Preset("deberta", _Box((2e-6, 1e-4), epochs=(1, 10)), tuple(_DEBERTA_GRID), (_DEBERTA, _FLAML)),
        Preset(
            "albert",
            _Box((5e-6, 1e-4), batch_sizes=(8, 16, 32, 64, 128)),
            tuple(_setting(rate, batch, 3, 0.01, 0.1) for rate, batch in _ALBERT_TASKS.values()),
            (_ALBERT, _FLAML),
        ),
        Preset("gpt2", _Box((1e-5, 1e-3)), (_setting(6.25e-5, 32, 3, 0.01, 0.0),), (_GPT,)),
        Preset(
            "t5",
            _Box((2e-5, 2e-3), batch_sizes=(8, 16, 32, 64, 128), epochs=(1, 10)),
            (_setting(1e-3, 128, 3, 0.0, 0.0), _setting(5.6e-5, 8, 8, 0.01, 0.0)),
            (_T5, _COURSE),
        ),
        Preset(
            "marian",
            _Box((1e-5, 2e-3), epochs=(1, 10)),
            (_setting(2e-5, 32, 3, 0.01, 0.0), _setting(7e-4, 64, 10, 0.0, 0.06, label_smoothing_factor=0.1)),
            (_COURSE, _VASWANI),
        ),
        Preset("lora", _Box((5e-5, 3e-3), epochs=(1, 30)), tuple(_LORA_POINTS), (_LORA,)),
        Preset(
            "generic",
            _Box((5e-6, 1e-3)),
            (_setting(2e-5, 32, 3, 0.01, 0.1), _setting(5e-5, 16, 3, 0.0, 0.0), _setting(1e-4, 32, 3, 0.01, 0.1)),
            (_BERT, _FLAML),
        ),
    )
}
MODEL_TYPES: tuple[str, ...] = tuple(_PRESETS)

# Other values of `config.model_type` in transformers, and the family whose settings their authors reused.
_FAMILY = {
    "distilbert": "bert",
    "mobilebert": "electra",  # its authors search 1e-5 to 1e-4 over up to 10 epochs, as ELECTRA's do
    "camembert": "roberta",
    "xlm-roberta": "roberta",
    "deberta-v2": "deberta",
    "openai-gpt": "gpt2",
    "mt5": "t5",
    "umt5": "t5",
    "bart": "marian",
    "mbart": "marian",
    "m2m_100": "marian",
}

# (family, task) -> settings that were published for that very task.
_FOR_TASK: dict[tuple[str, str], list[Params]] = {
    **{("albert", task): [_setting(*point, 3, 0.01, 0.1)] for task, point in _ALBERT_TASKS.items()},
    **{("roberta", task): [_setting(2e-5, 16, 10, 0.1, 0.06)] for task in ("rte", "stsb")},
    **{("roberta", task): [_setting(1e-5, 16, 10, 0.1, 0.06)] for task in ("mrpc", "cola")},
    **{("roberta", task): [_setting(1e-5, 32, 10, 0.1, 0.06)] for task in ("mnli", "qnli", "sst2", "qqp")},
    **{("electra", task): _grid((1e-4, 5e-5), (32,), (10,), 0.01, 0.1) for task in ("rte", "stsb")},
    ("electra", "squad"): [_setting(1e-4, 32, 2, 0.01, 0.1)],
    ("deberta", "rte"): [_setting(2e-5, 32, 6, 0.01, 0.1)],
    ("bert", "squad"): [_setting(5e-5, 32, 3, 0.01, 0.1)],
    ("bert", "squad_v2"): [_setting(5e-5, 48, 2, 0.01, 0.1)],
    ("bert", "swag"): [_setting(2e-5, 16, 3, 0.01, 0.1)],
}


def preset(model_type: str, task: str | None = None) -> Preset:
    """Looks up what was published about fine-tuning a family of models.

    Args:
        model_type: ``config.model_type`` of a transformers model, or ``"lora"`` for a model with adapters. A type that
            the tables do not know gets the ``"generic"`` preset.
        task: a task of GLUE such as ``"rte"``, or ``"squad"``, ``"squad_v2"``, ``"swag"``. Settings that were published
            for it come first; a task that the tables do not know changes nothing.

    Returns:
        The preset. Same arguments, same preset; what is returned is never changed later.

    Raises:
        ArgumentsError: ``model_type`` is no string, or an almost right spelling of a family.
    """
    if not isinstance(model_type, str) or not model_type:
        raise ArgumentsError(f"model_type={model_type!r}: expected config.model_type, such as 'bert', or 'lora'.")
    family = _FAMILY.get(model_type, model_type)
    if family not in _PRESETS:
        _refuse_misspelling(model_type)
        family = "generic"
    found = _PRESETS[family]
    first = _FOR_TASK.get((family, _normalized(task)), [])
    published: list[Params] = []
    for setting in (*first, *found.published):
        if setting not in published:
            published.append(dict(setting))
    return Preset(found.name, found.hp_space, tuple(published), found.sources)


def _normalized(task: str | None) -> str:
    name = (task or "").lower().replace("-", "")
    return {"mnli_matched": "mnli", "mnli_mismatched": "mnli", "sts_b": "stsb", "sst_2": "sst2"}.get(name, name)


def _refuse_misspelling(model_type: str) -> None:
    """``"BERT"`` must not silently become the generic preset; ``"modernbert"`` may."""
    near = difflib.get_close_matches(model_type.lower(), [*MODEL_TYPES, *_FAMILY], n=1, cutoff=1.0)
    if near:
        raise ArgumentsError(f"model_type={model_type!r}: transformers writes it {near[0]!r}.")
