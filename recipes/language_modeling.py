"""Fine-tune a language model: a GPT-2 on the next token, or a BERT on masked tokens; perplexity on held-out text.

    python recipes/language_modeling.py --model openai-community/gpt2 --data Salesforce/wikitext \\
        --configuration wikitext-2-raw-v1
    python recipes/language_modeling.py --masked --model google-bert/bert-base-uncased --data <folder of .txt files>
    python recipes/language_modeling.py --offline            # embedded GPT-2 and docstrings; with --masked the BERT
"""

import math
import time
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any

import transformers
from datasets import Dataset, DatasetDict
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoTokenizer,
    DataCollatorForLanguageModeling,
    Trainer,
    TrainingArguments,
    default_data_collator,
)

import hf_rlsearch  # noqa: F401  registers backend="rl"
from common import (
    check_rows,
    friendly_hub_errors,
    load_splits,
    objective,
    parse_args,
    print_result,
    published_space,
    silence_libraries,
    take,
)
from hf_rlsearch import embedded


@dataclass
class Args:
    """Searches the hyperparameters of a language model."""

    model: str = field(default="openai-community/gpt2", metadata={"help": "name on the Hub, or a folder"})
    data: str = field(
        default="Salesforce/wikitext", metadata={"help": "name on the Hub, or a folder with train*.txt ..."}
    )
    configuration: str | None = field(default=None, metadata={"help": "configuration of the data set on the Hub"})
    masked: bool = field(
        default=False, metadata={"help": "predict masked tokens (BERT) instead of the next one (GPT-2)"}
    )
    offline: bool = field(default=False, metadata={"help": "embedded checkpoint and docstrings, no network"})
    smoke: bool = field(default=False, metadata={"help": "two tiny trials offline, to see that everything runs"})
    backend: str = field(default="rl", metadata={"help": "rl, or another backend of transformers to compare with"})
    n_trials: int = field(default=10, metadata={"help": "trials, trial 0 (these arguments as they are) included"})
    timeout: float | None = field(default=None, metadata={"help": "seconds after which no new trial begins"})
    n_train: int | None = field(default=None, metadata={"help": "texts to train on, all if left out"})
    n_validation: int | None = field(default=None, metadata={"help": "texts to validate on, all if left out"})
    block_size: int = field(default=64, metadata={"help": "tokens per row"})
    seed: int = field(default=42, metadata={"help": "seed of the texts, the trainings and the search"})
    output: str = field(default="runs/language_modeling", metadata={"help": "folder of trials and storage"})


def load_texts(args: Args) -> DatasetDict:
    """Returns ``train`` and ``validation`` with a column ``text``."""
    if args.offline:
        return embedded.language_modeling_dataset(args.seed, args.n_train or 400, args.n_validation or 150)
    rows = load_splits(args.data, "{split}*.txt", args.configuration)
    return take(rows, args.n_train, args.n_validation, seed=None)


def to_blocks(rows: Dataset, tokenizer: Any, block_size: int) -> Dataset:
    """Joins the texts and cuts them into rows of equal length, so that no token is padding."""
    tokens = rows.map(lambda batch: tokenizer(batch["text"]), batched=True, remove_columns=rows.column_names)

    def cut(batch: dict[str, list[list[int]]]) -> dict[str, list[list[int]]]:
        stream = {name: list(chain.from_iterable(lists)) for name, lists in batch.items()}
        end = len(stream["input_ids"]) // block_size * block_size
        return {name: [row[at : at + block_size] for at in range(0, end, block_size)] for name, row in stream.items()}

    return tokens.map(cut, batched=True)


def make_trainer(args: Args) -> Trainer:
    """Makes the Trainer whose arguments are trial 0."""
    model = embedded.path("bert-tiny" if args.masked else "gpt2-tiny") if args.offline else args.model
    with friendly_hub_errors(model):
        tokenizer = AutoTokenizer.from_pretrained(model)
        longest = getattr(AutoConfig.from_pretrained(model), "max_position_embeddings", None)
    if longest is not None and args.block_size > longest:
        raise SystemExit(f"block_size={args.block_size} given, but {model!r} takes {longest} tokens. Give fewer.")
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    rows = {split: to_blocks(part, tokenizer, args.block_size) for split, part in load_texts(args).items()}
    check_rows(rows, f"Its texts together are shorter than block_size={args.block_size}. Give fewer, or more texts.")
    auto = AutoModelForMaskedLM if args.masked else AutoModelForCausalLM
    collate = DataCollatorForLanguageModeling(tokenizer, mlm=args.masked, mlm_probability=0.15 if args.masked else 0.0)
    if args.masked:  # masked once, so that every trial is asked for the same tokens
        masked = collate(list(rows["validation"]))
        rows["validation"] = Dataset.from_dict({name: column.tolist() for name, column in masked.items()})
    return Trainer(
        model_init=lambda: auto.from_pretrained(model),
        args=TrainingArguments(
            output_dir=args.output,
            eval_strategy="epoch",
            per_device_eval_batch_size=32,
            seed=args.seed,
            report_to="none",
            disable_tqdm=False,
        ),
        train_dataset=rows["train"],
        eval_dataset=rows["validation"],
        processing_class=tokenizer,
        data_collator=lambda rows: (default_data_collator if "labels" in rows[0] else collate)(rows),
    )


def tiny_space(trial: Any) -> dict[str, Any]:
    """A model with half a million parameters needs far larger learning rates than the published ones."""
    return {
        "learning_rate": trial.suggest_float("learning_rate", 1e-5, 1e-2, log=True),
        "per_device_train_batch_size": trial.suggest_categorical("per_device_train_batch_size", [8, 16, 32]),
        "num_train_epochs": trial.suggest_int("num_train_epochs", 1, 4),
        "weight_decay": trial.suggest_categorical("weight_decay", [0.0, 0.01, 0.1]),
    }


def search(args: Args, trainer: Trainer, **options: Any) -> Any:
    """Runs the search and returns its ``BestRun``; ``options`` are more arguments of ``hyperparameter_search``.

    The objective is the loss, the logarithm of the perplexity.
    """
    published = published_space(args.backend, trainer.model.config.model_type)
    return trainer.hyperparameter_search(
        **{**({"hp_space": tiny_space} if args.offline else published), **options},
        direction="minimize",
        n_trials=args.n_trials,
        timeout=args.timeout,
        backend=args.backend,
        **objective(args.backend, "loss"),
    )


def main(argv: list[str] | None = None) -> Any:
    """Reads the arguments, searches, prints what was found."""
    args = parse_args(Args, argv)
    if args.smoke:
        args = replace(args, n_trials=2, n_train=24, n_validation=12)
    silence_libraries()
    transformers.set_seed(args.seed)
    started = time.monotonic()
    best = search(args, make_trainer(args))
    print_result(best, "loss", started, perplexity=math.exp(best.objective))
    return best


if __name__ == "__main__":
    main()
