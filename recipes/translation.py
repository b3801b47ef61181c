"""Train a translator from scratch, or fine-tune one, and score what it generates with BLEU and chrF.

python recipes/translation.py --data my_folder --source en --target de                        # your own pairs
python recipes/translation.py --model Helsinki-NLP/opus-mt-en-de --data my_folder             # from the Hub
python recipes/translation.py --offline        # number words, English to German, from scratch in seconds
"""

import random
import time
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import transformers
from datasets import Dataset, DatasetDict
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    DataCollatorForSeq2Seq,
    MarianConfig,
    MarianMTModel,
    PreTrainedTokenizerFast,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
)

import hf_rlsearch  # noqa: F401  registers backend="rl"
from common import friendly_hub_errors, load_splits, objective, parse_args, print_result, silence_libraries, take
from hf_rlsearch.metrics import load_metric


@dataclass
class Args:
    """Searches the hyperparameters of a translator; the objective is BLEU of generated text."""

    data: str | None = field(
        default=None, metadata={"help": "folder with train.jsonl.gz and validation.jsonl.gz, or a name on the Hub"}
    )
    source: str = field(default="en", metadata={"help": "key of the source language in the column 'translation'"})
    target: str = field(default="de", metadata={"help": "key of the target language"})
    model: str | None = field(default=None, metadata={"help": "a pretrained translator; from scratch if left out"})
    offline: bool = field(default=False, metadata={"help": "number words, no network"})
    smoke: bool = field(default=False, metadata={"help": "two tiny trials offline, to see that everything runs"})
    backend: str = field(default="rl", metadata={"help": "rl, or another backend of transformers to compare with"})
    n_trials: int = field(default=8, metadata={"help": "trials, trial 0 (these arguments as they are) included"})
    timeout: float | None = field(default=None, metadata={"help": "seconds after which no new trial begins"})
    n_train: int | None = field(default=None, metadata={"help": "pairs to train on, all if left out"})
    n_validation: int | None = field(default=None, metadata={"help": "pairs to validate on, all if left out"})
    epochs: float = field(default=3.0, metadata={"help": "epochs of every trial"})
    vocabulary: int = field(default=4000, metadata={"help": "tokens of the tokenizer of a model from scratch"})
    width: int = field(default=128, metadata={"help": "width of a model from scratch in trial 0"})
    beams: bool = field(default=False, metadata={"help": "search beams and length penalty too, with backend rl"})
    tune_generation: int | None = field(
        default=None,
        metadata={"help": "evaluations to tune beams of the best model with, backend rl only"},
    )
    max_length: int = field(default=40, metadata={"help": "tokens per sentence"})
    seed: int = field(default=42, metadata={"help": "seed of the pairs, the trainings and the search"})
    output: str = field(default="runs/translation", metadata={"help": "folder of trials and storage"})


ENGLISH_ONES = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
ENGLISH = (ENGLISH_ONES + "seventeen eighteen nineteen").split()
ENGLISH_TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
GERMAN_ONES = "null ein zwei drei vier fünf sechs sieben acht neun zehn elf zwölf dreizehn vierzehn fünfzehn sechzehn "
GERMAN = (GERMAN_ONES + "siebzehn achtzehn neunzehn").split()
GERMAN_TENS = ["zwanzig", "dreißig", "vierzig", "fünfzig", "sechzig", "siebzig", "achtzig", "neunzig"]


def in_words(number: int) -> tuple[str, str]:
    """A number from 1 to 999,999 in English and in German, where the ones come before the tens."""
    if number >= 1000:
        (english, german), rest = in_words(number // 1000), number % 1000
        tail = in_words(rest) if rest else ("", "")
        return f"{english} thousand {tail[0]}".strip(), f"{german} tausend {tail[1]}".strip()
    if number >= 100:
        tail = in_words(number % 100) if number % 100 else ("", "")
        hundreds = number // 100
        return f"{ENGLISH[hundreds]} hundred {tail[0]}".strip(), f"{GERMAN[hundreds]} hundert {tail[1]}".strip()
    if number < 20:
        return ENGLISH[number], GERMAN[number]
    tens, ones = number // 10 - 2, number % 10
    english = f"{ENGLISH_TENS[tens]} {ENGLISH[ones]}" if ones else ENGLISH_TENS[tens]
    return english, f"{GERMAN[ones]} und {GERMAN_TENS[tens]}" if ones else GERMAN_TENS[tens]


def load_pairs(args: Args) -> DatasetDict:
    """Returns ``train`` and ``validation`` with the columns ``source`` and ``target``."""
    if args.offline:
        n_train, n_validation = args.n_train or 3000, args.n_validation or 200
        pairs = [in_words(n) for n in random.Random(args.seed).sample(range(1, 1_000_000), n_train + n_validation)]
        parts = {"train": pairs[:n_train], "validation": pairs[n_train:]}
        columns = {
            split: dict(zip(("source", "target"), zip(*part, strict=True), strict=True))
            for split, part in parts.items()
        }
        return DatasetDict({split: Dataset.from_dict(columns[split]) for split in parts})
    if args.data is None:
        raise SystemExit("Give a data set with --data, or run with --offline.")
    rows = take(load_splits(args.data, "{split}.jsonl.gz"), args.n_train, args.n_validation, seed=args.seed)
    return rows.map(
        lambda row: {"source": row["translation"][args.source], "target": row["translation"][args.target]},
        remove_columns=rows["train"].column_names,
    )


def train_tokenizer(rows: DatasetDict, vocabulary: int) -> PreTrainedTokenizerFast:
    """Trains one subword tokenizer for both languages on the training pairs."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    special = ["<pad>", "</s>", "<unk>"]
    trainer = trainers.BpeTrainer(vocab_size=vocabulary, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator([*rows["train"]["source"], *rows["train"]["target"]], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")


def from_scratch(tokenizer: Any, width: int, dropout: float, max_length: int) -> MarianMTModel:
    """Builds a Transformer encoder-decoder of two layers each."""
    layers = {"encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4, "decoder_attention_heads": 4}
    config = MarianConfig(
        vocab_size=len(tokenizer),
        d_model=width,
        encoder_ffn_dim=2 * width,
        decoder_ffn_dim=2 * width,
        dropout=dropout,
        max_position_embeddings=256,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        decoder_start_token_id=tokenizer.pad_token_id,
        forced_eos_token_id=None,
        scale_embedding=True,
        **layers,
    )
    model = MarianMTModel(config)
    model.generation_config.max_length = max_length
    model.generation_config.num_beams = 1
    return model


def make_trainer(args: Args) -> Seq2SeqTrainer:
    """Makes the Trainer whose arguments are trial 0."""
    rows = load_pairs(args)
    if args.model is None:
        tokenizer = train_tokenizer(rows, args.vocabulary)
    else:
        with friendly_hub_errors(args.model, offline=args.offline):
            tokenizer = AutoTokenizer.from_pretrained(args.model)
    rows = rows.map(
        lambda batch: tokenizer(
            batch["source"], text_target=batch["target"], truncation=True, max_length=args.max_length
        ),
        batched=True,
        remove_columns=["source", "target"],
    )

    def model_init(trial: Any = None) -> Any:
        if args.model is not None:
            return AutoModelForSeq2SeqLM.from_pretrained(args.model)
        width = args.width if trial is None else trial.suggest_categorical("width", [args.width // 2, args.width])
        dropout = 0.1 if trial is None else trial.suggest_categorical("dropout", [0.0, 0.1, 0.2, 0.3])
        return from_scratch(tokenizer, width, dropout, args.max_length)

    bleu, chrf = load_metric("sacrebleu"), load_metric("chrf")

    def compute_metrics(prediction: Any) -> dict[str, float]:
        texts = [
            np.where(ids < 0, tokenizer.pad_token_id, ids) for ids in (prediction.predictions, prediction.label_ids)
        ]
        guess, reference = (tokenizer.batch_decode(ids, skip_special_tokens=True) for ids in texts)
        inputs = {"predictions": guess, "references": [[text] for text in reference]}
        return {"bleu": bleu.compute(**inputs)["score"], "chrf": chrf.compute(**inputs)["score"]}

    return Seq2SeqTrainer(
        model_init=model_init,
        args=Seq2SeqTrainingArguments(
            output_dir=args.output,
            num_train_epochs=args.epochs,
            per_device_train_batch_size=32,
            per_device_eval_batch_size=100,
            eval_strategy="epoch",
            predict_with_generate=True,
            generation_max_length=args.max_length,
            seed=args.seed,
            report_to="none",
            disable_tqdm=False,
        ),
        train_dataset=rows["train"],
        eval_dataset=rows["validation"],
        processing_class=tokenizer,
        # with a model the collator makes decoder_input_ids, which label smoothing needs; any model of this kind will do
        data_collator=DataCollatorForSeq2Seq(tokenizer, model=model_init()),
        compute_metrics=compute_metrics,
    )


def hp_space(trial: Any) -> dict[str, Any]:
    """The training arguments; width and dropout of a model from scratch are suggested in ``model_init``."""
    return {
        "learning_rate": trial.suggest_float("learning_rate", 2e-5, 1e-2, log=True),
        "per_device_train_batch_size": trial.suggest_categorical("per_device_train_batch_size", [16, 32, 64]),
        "label_smoothing_factor": trial.suggest_categorical("label_smoothing_factor", [0.0, 0.1]),
        "warmup_steps": trial.suggest_categorical("warmup_steps", [0.0, 0.05, 0.1]),
    }


def generation_space(trial: Any) -> dict[str, Any]:
    """How text is generated."""
    beams = trial.suggest_categorical("gen.num_beams", [1, 2, 4])
    penalty = {"gen.length_penalty": trial.suggest_categorical("gen.length_penalty", [0.6, 1.0, 1.4])}
    return {"gen.num_beams": beams, **(penalty if beams > 1 else {})}


def with_beams(trial: Any) -> dict[str, Any]:
    """The training arguments, and how text is generated."""
    return {**hp_space(trial), **generation_space(trial)}


def search(args: Args, trainer: Seq2SeqTrainer, **options: Any) -> Any:
    """Runs the search and returns its ``BestRun``; ``options`` are more arguments of ``hyperparameter_search``."""
    return trainer.hyperparameter_search(
        hp_space=with_beams if args.beams else hp_space,
        direction="maximize",
        n_trials=args.n_trials,
        timeout=args.timeout,
        backend=args.backend,
        **objective(args.backend, "bleu"),
        **options,
    )


def main(argv: list[str] | None = None) -> Any:
    """Reads the arguments, searches, prints what was found."""
    args = parse_args(Args, argv)
    if args.tune_generation and args.backend != "rl":
        raise SystemExit(f"--tune_generation needs --backend rl, given {args.backend}.")
    if args.smoke:
        args = replace(args, n_trials=2, n_train=64, n_validation=16, epochs=1.0, vocabulary=300, width=32)
    silence_libraries()
    transformers.set_seed(args.seed)
    started = time.monotonic()
    trainer = make_trainer(args)
    best = search(args, trainer)
    print_result(best, "bleu", started)
    if args.tune_generation:
        tuned = best.run_summary.tune_generation(trainer, generation_space, n_trials=args.tune_generation)
        print(f"bleu {tuned.value:.4g} with {tuned.best_params}, {tuned.baseline_value:.4g} before")
    return best


if __name__ == "__main__":
    main()
