"""Fine-tune an encoder on a task of GLUE, with the metric of that task.

python recipes/glue.py --task mrpc --model answerdotai/ModernBERT-base      # from the Hub
python recipes/glue.py --task sst2 --data my_folder --model my_checkpoint        # your own rows and weights
python recipes/glue.py --offline                                            # embedded checkpoint and sentences
"""

import time
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import transformers
from datasets import ClassLabel, DatasetDict
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer, Trainer, TrainingArguments

import hf_rlsearch  # noqa: F401  registers backend="rl"
from common import (
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
from hf_rlsearch.metrics import load_metric

# a model with fewer parameters than this needs far larger learning rates than the published ones
TINY = 2_000_000

# task -> its columns of text
TASKS = {
    "cola": ("sentence",),
    "sst2": ("sentence",),
    "mrpc": ("sentence1", "sentence2"),
    "stsb": ("sentence1", "sentence2"),
    "qqp": ("question1", "question2"),
    "mnli": ("premise", "hypothesis"),
    "qnli": ("question", "sentence"),
    "rte": ("sentence1", "sentence2"),
    "wnli": ("sentence1", "sentence2"),
}


@dataclass
class Args:
    """Searches the hyperparameters of a text classifier."""

    task: str = field(default="sst2", metadata={"help": f"one of {', '.join(TASKS)}", "choices": list(TASKS)})
    model: str = field(default="google-bert/bert-base-uncased", metadata={"help": "name on the Hub, or a folder"})
    data: str = field(default="nyu-mll/glue", metadata={"help": "name on the Hub, or a folder with train.jsonl.gz ..."})
    offline: bool = field(default=False, metadata={"help": "embedded checkpoint and sentences, no network"})
    smoke: bool = field(default=False, metadata={"help": "two tiny trials offline, to see that everything runs"})
    backend: str = field(default="rl", metadata={"help": "rl, or another backend of transformers to compare with"})
    n_trials: int = field(default=12, metadata={"help": "trials, trial 0 (these arguments as they are) included"})
    timeout: float | None = field(default=None, metadata={"help": "seconds after which no new trial begins"})
    n_train: int | None = field(default=None, metadata={"help": "rows to train on, all if left out"})
    n_validation: int | None = field(default=None, metadata={"help": "rows to validate on, all if left out"})
    max_length: int = field(default=128, metadata={"help": "tokens per text, the rest is cut off"})
    bf16: bool = field(default=False, metadata={"help": "train in bfloat16"})
    seed: int = field(default=42, metadata={"help": "seed of the rows, the trainings and the search"})
    output: str = field(default="runs/glue", metadata={"help": "folder of trials and storage"})


def load_rows(args: Args) -> tuple[DatasetDict, tuple[str, ...]]:
    """Returns the splits ``train`` and ``validation``, and the names of their columns of text."""
    if args.offline:
        return embedded.classification_dataset(args.seed, args.n_train or 1000, args.n_validation or 400), ("text",)
    rows = load_splits(args.data, "{split}.jsonl.gz", args.task)
    if "validation_matched" in rows:  # MNLI of the Hub
        rows["validation"] = rows["validation_matched"]
    return take(rows, args.n_train, args.n_validation, seed=args.seed), TASKS[args.task]


def n_labels(rows: DatasetDict) -> int:
    """The number of classes, 1 for a regression."""
    label = rows["train"].features["label"]
    if isinstance(label, ClassLabel):
        return label.num_classes
    return 1 if label.dtype.startswith("float") else len(set(rows["train"]["label"]))


def make_trainer(args: Args) -> Trainer:
    """Makes the Trainer whose arguments are trial 0."""
    model = embedded.path("bert-tiny") if args.offline else args.model
    rows, columns = load_rows(args)
    with friendly_hub_errors(model):
        tokenizer = AutoTokenizer.from_pretrained(model)
        config = AutoConfig.from_pretrained(model, num_labels=n_labels(rows))
    rows = rows.map(
        lambda batch: tokenizer(*(batch[name] for name in columns), truncation=True, max_length=args.max_length),
        batched=True,
        remove_columns=[name for name in rows["train"].column_names if name != "label"],
    )
    metric = load_metric("accuracy") if args.offline else load_metric("glue", args.task)

    def compute_metrics(prediction: Any) -> dict[str, float]:
        logits = prediction.predictions
        guess = logits[:, 0] if config.num_labels == 1 else logits.argmax(-1)
        scores = metric.compute(predictions=guess, references=prediction.label_ids)
        return {**scores, "score": sum(scores.values()) / len(scores)}

    return Trainer(
        model_init=lambda: AutoModelForSequenceClassification.from_pretrained(model, config=config),
        args=TrainingArguments(
            output_dir=args.output,
            eval_strategy="epoch",
            per_device_eval_batch_size=64,
            bf16=args.bf16,
            use_cpu=not torch.cuda.is_available(),  # bfloat16 without a GPU has to be asked for twice
            seed=args.seed,
            report_to="none",
            disable_tqdm=False,
        ),
        train_dataset=rows["train"],
        eval_dataset=rows["validation"],
        processing_class=tokenizer,
        compute_metrics=compute_metrics,
    )


def tiny_space(trial: Any) -> dict[str, Any]:
    """The space for a tiny model."""
    return {
        "learning_rate": trial.suggest_float("learning_rate", 1e-5, 1e-2, log=True),
        "per_device_train_batch_size": trial.suggest_categorical("per_device_train_batch_size", [8, 16, 32]),
        "num_train_epochs": trial.suggest_int("num_train_epochs", 1, 4),
        "warmup_steps": trial.suggest_categorical("warmup_steps", [0.0, 0.1, 0.2]),
    }


def search(args: Args, trainer: Trainer, **options: Any) -> Any:
    """Runs the search and returns its ``BestRun``; ``options`` are more arguments of ``hyperparameter_search``."""
    tiny = trainer.model.num_parameters() < TINY
    published = published_space(args.backend, trainer.model.config.model_type, args.task)
    return trainer.hyperparameter_search(
        **({"hp_space": tiny_space} if tiny else published),
        direction="maximize",
        n_trials=args.n_trials,
        timeout=args.timeout,
        backend=args.backend,
        **objective(args.backend, "score"),
        **options,
    )


def main(argv: list[str] | None = None) -> Any:
    """Reads the arguments, searches, prints what was found."""
    args = parse_args(Args, argv)
    if args.smoke:
        args = replace(args, n_trials=2, n_train=24, n_validation=16)
    silence_libraries()
    transformers.set_seed(args.seed)
    started = time.monotonic()
    best = search(args, make_trainer(args))
    print_result(best, "score", started)
    return best


if __name__ == "__main__":
    main()
