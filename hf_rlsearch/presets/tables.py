"""The tables: numbers of papers and of their authors' scripts, and where each is from."""

import itertools
from collections.abc import Iterable
from typing import Any

from hf_rlsearch._typing import Params
from hf_rlsearch.presets.preset import EPOCHS, RANK, Box, Preset

_NAMES = ("learning_rate", "per_device_train_batch_size", EPOCHS, "weight_decay", "warmup_steps")

_FLAML = "FLAML, nlp/huggingface/utils get_grid_search_space.py, which collects the papers' tables"
_BERT = "Devlin et al. 2019 (arXiv:1810.04805), appendix A.3; google-research/bert run_classifier.py (warm-up, decay)"
_ROBERTA = "Liu et al. 2019 (arXiv:1907.11692), table 10; fairseq examples/roberta/README.glue.md"
_ELECTRA = "Clark et al. 2020 (arXiv:2003.10555), appendix B; google-research/electra configure_finetuning.py"
_DEBERTA = "He et al. 2021 (arXiv:2006.03654), table 9; microsoft/DeBERTa experiments/glue/mnli.sh"
_ALBERT = "Lan et al. 2020 (arXiv:1909.11942), table 14"
_GPT = "Radford et al. 2018, Improving language understanding by generative pre-training, section 4.1"
_T5 = "Raffel et al. 2020 (arXiv:1910.10683), sections 3.1.2 and 3.1.3: Adafactor, constant rate 1e-3, batch 128"
_COURSE = "Hugging Face course, chapter 7: translation (Marian), summarization (mT5)"
_VASWANI = (
    "Vaswani et al. 2017 (arXiv:1706.03762), sections 5.3, 5.4, 6.1: from scratch, a peak rate of 7e-4 (from width 512 "
    "and 4,000 steps of warm-up out of 100,000), label smoothing 0.1, beam 4"
)
_LORA = "Hu et al. 2022 (arXiv:2106.09685), appendix D; microsoft/LoRA examples/NLU and examples/NLG"


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
    *({**setting, "train.layer_decay": 0.8} for setting in _grid((1e-4, 5e-5, 3e-5, 1.5e-4), (32,), (3,), 0.01, 0.1)),
    _setting(5e-5, 32, 3, 0.01, 0.1, **{"train.layer_decay": 0.9}),  # large
]
# MNLI; the scripts give the warm-up as 500 or 1000 steps, here it is a share of the 6,136 steps of an epoch.
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
    _setting(5e-4, 16, 30, 0.1, 0.06, **{RANK: 8, "peft.lora_alpha": 16}),
    _setting(4e-4, 16, 30, 0.1, 0.06, **{RANK: 8, "peft.lora_alpha": 16}),
    # GPT-2 medium, 500 of 26,289 steps of warm-up
    _setting(
        2e-4,
        8,
        5,
        0.01,
        0.02,
        **{RANK: 4, "peft.lora_alpha": 32, "peft.lora_dropout": 0.1, "label_smoothing_factor": 0.1},
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
    _setting(5.6e-5, 8, 8, 0.01, 0.0),
]
_FROM_SCRATCH = {"learning_rate": 7e-4, "warmup_steps": 0.04, "label_smoothing_factor": 0.1, "gen.num_beams": 4}

PRESETS: dict[str, Preset] = {
    preset.name: preset
    for preset in (
        Preset("bert", Box((5e-6, 2e-4)), tuple(_BERT_GRID), (_BERT, _FLAML)),
        Preset("roberta", Box((3e-6, 1e-4), epochs=(1, 10)), tuple(_ROBERTA_GRID), (_ROBERTA, _FLAML)),
        Preset("electra", Box((1e-5, 5e-4), epochs=(1, 10)), tuple(_ELECTRA_GRID), (_ELECTRA, _FLAML)),
        Preset("deberta", Box((2e-6, 1e-4), epochs=(1, 10)), tuple(_DEBERTA_POINTS), (_DEBERTA, _FLAML)),
        Preset(
            "albert",
            Box((5e-6, 1e-4), batch_sizes=(8, 16, 32, 64, 128), epochs=(1, 10)),
            tuple(_albert(*point) for point in _ALBERT_TASKS.values()),
            (_ALBERT, _FLAML),
        ),
        Preset("gpt2", Box((1e-5, 1e-3)), (_setting(6.25e-5, 32, 3, 0.01, 0.002),), (_GPT,)),
        Preset(
            "t5",
            Box((2e-5, 2e-3), batch_sizes=(8, 16, 32, 64, 128), epochs=(1, 10)),
            tuple(_T5_POINTS),
            (_T5, _COURSE),
        ),
        Preset(
            "marian",
            Box((1e-5, 2e-3), epochs=(1, 10)),
            (_setting(2e-5, 32, 3, 0.01, 0.0), _FROM_SCRATCH),
            (_COURSE, _VASWANI),
        ),
        Preset("lora", Box((5e-5, 3e-3), epochs=(1, 30), ranks=(2, 4, 8, 16, 32)), tuple(_LORA_POINTS), (_LORA,)),
        Preset(
            "generic",
            Box((5e-6, 1e-3)),
            (_setting(2e-5, 32, 3, 0.01, 0.1), _setting(5e-5, 16, 3, 0.0, 0.0), _setting(1e-4, 32, 3, 0.1, 0.1)),
            (_BERT, _FLAML),
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
        ("electra", task): [_setting(1e-4, 32, epochs, 0.01, 0.1, **{"train.layer_decay": 0.8})]
        for task, epochs in (("rte", 10), ("stsb", 10), ("squad", 2), ("squad_v2", 2))
    },
    # base and large, from a model that was fine-tuned on MNLI; 100 of 467 steps of warm-up
    ("deberta", "rte"): [_setting(2e-5, 32, 6, 0.01, 0.2), _setting(8e-6, 32, 6, 0.01, 0.2)],
    ("bert", "squad"): [_setting(5e-5, 32, 3, 0.01, 0.1)],
    ("bert", "squad_v2"): [_setting(5e-5, 48, 2, 0.01, 0.1)],
    ("bert", "swag"): [_setting(2e-5, 16, 3, 0.01, 0.1)],
}
