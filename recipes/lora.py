"""Fine-tune with LoRA: rank, alpha, dropout and target modules are hyperparameters like the others.

    python recipes/lora.py --model google-bert/bert-base-uncased --data stanfordnlp/sst2 --text sentence
    python recipes/lora.py --offline               # embedded checkpoint and sentences

Adapters want learning rates about ten times those of full fine-tuning (see
``hf_rlsearch.space.presets.preset("lora")``). The target modules are named as in BERT, RoBERTa, ELECTRA and ALBERT:
other models call their layers otherwise.
Needs peft: ``pip install ".[recipes]"`` in the root of the repository.
"""

import time
from dataclasses import dataclass, field, replace
from typing import Any

import transformers
from datasets import DatasetDict
from peft import LoraConfig, TaskType, get_peft_model
from transformers import AutoModelForSequenceClassification, AutoTokenizer, Trainer, TrainingArguments

import hf_rlsearch  # noqa: F401  registers backend="rl"
from common import friendly_hub_errors, load_splits, parse_args, print_result, silence_libraries, take
from hf_rlsearch import embedded
from hf_rlsearch.metrics import load_metric


@dataclass
class Args:
    """Searches training arguments and adapter of a text classifier."""

    model: str = field(default="google-bert/bert-base-uncased", metadata={"help": "name on the Hub, or a folder"})
    data: str = field(default="stanfordnlp/sst2", metadata={"help": "name on the Hub, with a column 'label'"})
    text: str = field(default="sentence", metadata={"help": "column of the texts"})
    offline: bool = field(default=False, metadata={"help": "embedded checkpoint and sentences, no network"})
    smoke: bool = field(default=False, metadata={"help": "two tiny trials offline, to see that everything runs"})
    n_trials: int = field(default=12, metadata={"help": "trials, trial 0 (these arguments as they are) included"})
    timeout: float | None = field(default=None, metadata={"help": "seconds after which no new trial begins"})
    n_train: int | None = field(default=None, metadata={"help": "rows to train on, all if left out"})
    n_validation: int | None = field(default=None, metadata={"help": "rows to validate on, all if left out"})
    max_length: int = field(default=64, metadata={"help": "tokens per text, the rest is cut off"})
    seed: int = field(default=42, metadata={"help": "seed of the rows, the trainings and the search"})
    output: str = field(default="runs/lora", metadata={"help": "folder of trials and storage"})


def load_rows(args: Args) -> DatasetDict:
    """Returns ``train`` and ``validation`` with the columns ``text`` and ``label``."""
    if args.offline:
        return embedded.classification_dataset(args.seed, args.n_train or 600, args.n_validation or 300)
    rows = take(load_splits(args.data), args.n_train, args.n_validation, seed=args.seed)
    return rows if args.text == "text" else rows.rename_column(args.text, "text")


def hp_space(trial: Any) -> dict[str, Any]:
    """Training arguments, and fields of the adapter: alpha is searched as a multiple of the rank."""
    rank = trial.suggest_categorical("peft.r", [2, 4, 8, 16, 32])
    targets = trial.suggest_categorical("targets", ["query value", "query key value", "all-linear"])
    return {
        "learning_rate": trial.suggest_float("learning_rate", 5e-5, 3e-2, log=True),
        "per_device_train_batch_size": trial.suggest_categorical("per_device_train_batch_size", [8, 16, 32]),
        "num_train_epochs": trial.suggest_int("num_train_epochs", 2, 5),
        "peft.r": rank,
        "peft.lora_alpha": rank * trial.suggest_categorical("lora_alpha_ratio", [1, 2, 4]),
        "peft.lora_dropout": trial.suggest_categorical("peft.lora_dropout", [0.0, 0.1]),
        "peft.target_modules": targets if targets == "all-linear" else targets.split(),
    }


def make_trainer(args: Args) -> Trainer:
    """Makes the Trainer whose arguments are trial 0."""
    name = embedded.path("bert-tiny") if args.offline else args.model
    rows = load_rows(args)
    n_labels = len(set(rows["train"]["label"]) | set(rows["validation"]["label"]))
    with friendly_hub_errors(name):
        tokenizer = AutoTokenizer.from_pretrained(name)
    rows = rows.map(lambda batch: tokenizer(batch["text"], truncation=True, max_length=args.max_length), batched=True)
    metric = load_metric("accuracy")

    def model_init() -> Any:
        base = AutoModelForSequenceClassification.from_pretrained(name, num_labels=n_labels)
        adapter = LoraConfig(task_type=TaskType.SEQ_CLS, r=8, lora_alpha=16, target_modules=["query", "value"])
        return get_peft_model(base, adapter)

    return Trainer(
        model_init=model_init,
        args=TrainingArguments(
            output_dir=args.output,
            eval_strategy="epoch",
            per_device_eval_batch_size=64,
            seed=args.seed,
            report_to="none",
            disable_tqdm=False,
        ),
        train_dataset=rows["train"],
        eval_dataset=rows["validation"],
        processing_class=tokenizer,
        compute_metrics=lambda prediction: metric.compute(
            predictions=prediction.predictions.argmax(-1), references=prediction.label_ids
        ),
    )


def main(argv: list[str] | None = None) -> Any:
    """Reads the arguments, searches, prints what was found."""
    args = parse_args(Args, argv)
    if args.smoke:
        args = replace(args, n_trials=2, n_train=24, n_validation=16)
    silence_libraries()
    transformers.set_seed(args.seed)
    started = time.monotonic()
    best = make_trainer(args).hyperparameter_search(
        hp_space=hp_space,
        direction="maximize",
        n_trials=args.n_trials,
        timeout=args.timeout,
        backend="rl",
        metric="accuracy",
    )
    print_result(best, "accuracy", started)
    return best


if __name__ == "__main__":
    main()
