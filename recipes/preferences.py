"""Training on preferences with TRL: DPO, or a reward model; the search takes a function that makes the trainer.

    python recipes/preferences.py --model HuggingFaceTB/SmolLM2-135M-Instruct --data trl-lib/ultrafeedback_binarized
    python recipes/preferences.py --method reward
    python recipes/preferences.py --offline        # embedded GPT-2: docstrings, or the same with exchanged words

Needs trl: ``pip install ".[recipes]"`` in the root of the repository.
"""

import random
import time
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import transformers
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
from trl import DPOConfig, DPOTrainer, RewardConfig, RewardTrainer

import hf_rlsearch
from common import friendly_hub_errors, load_parts, parse_args, print_result, silence_libraries
from hf_rlsearch import embedded

# The share of held-out pairs in which the chosen answer has the higher reward. Unlike the loss of DPO it may be
# compared between values of beta.
METRICS = {"dpo": "rewards/accuracies", "reward": "accuracy"}


@dataclass
class Args:
    """Searches the hyperparameters of training on preferences; the objective is the accuracy on held-out pairs."""

    method: str = field(
        default="dpo", metadata={"help": "direct preference optimisation, or a reward model", "choices": list(METRICS)}
    )
    model: str = field(default="HuggingFaceTB/SmolLM2-135M-Instruct", metadata={"help": "name on the Hub, or a folder"})
    data: str = field(
        default="trl-lib/ultrafeedback_binarized",
        metadata={"help": "name on the Hub, with chosen and rejected answers"},
    )
    offline: bool = field(default=False, metadata={"help": "embedded checkpoint and docstrings, no network"})
    smoke: bool = field(default=False, metadata={"help": "two tiny trials offline, to see that everything runs"})
    n_trials: int = field(default=8, metadata={"help": "trials, trial 0 (these arguments as they are) included"})
    timeout: float | None = field(default=None, metadata={"help": "seconds after which the search ends"})
    n_train: int = field(default=300, metadata={"help": "pairs to train on"})
    n_validation: int = field(default=100, metadata={"help": "pairs to validate on"})
    max_length: int = field(default=96, metadata={"help": "tokens per answer with its prompt, the rest is cut off"})
    seed: int = field(default=42, metadata={"help": "seed of the rows, the trainings and the search"})
    output: str = field(default="runs/preferences", metadata={"help": "folder of trials and storage"})


def load_rows(args: Args) -> tuple[Dataset, Dataset]:
    """Returns the pairs to train and to validate on."""
    if args.offline:
        rows = embedded.language_modeling_dataset(args.seed, args.n_train, args.n_validation)
        return tuple(rows[split].map(with_rejected, remove_columns=["text"]) for split in ("train", "validation"))
    return load_parts(args.data, args.seed, args.n_train, args.n_validation)


def with_rejected(row: dict[str, str]) -> dict[str, str]:
    """The first three words ask; the rest is the chosen answer, and with two words exchanged the rejected one."""
    words = row["text"].split(" ")
    answer, exchanged = words[3:], words[3:]
    if len(answer) > 1:
        i, j = random.Random(row["text"]).sample(range(len(answer)), 2)
        exchanged[i], exchanged[j] = answer[j], answer[i]
    return {"prompt": " ".join(words[:3]), "chosen": " " + " ".join(answer), "rejected": " " + " ".join(exchanged)}


def hp_space(method: str) -> Any:
    """Returns the function that suggests the fields of ``DPOConfig`` or ``RewardConfig``."""

    def space(trial: Any) -> dict[str, Any]:
        values = {
            "learning_rate": trial.suggest_float("learning_rate", 1e-6, 1e-3, log=True),
            "per_device_train_batch_size": trial.suggest_categorical("per_device_train_batch_size", [4, 8, 16]),
            "num_train_epochs": trial.suggest_int("num_train_epochs", 1, 3),
        }
        if method == "dpo":
            values["beta"] = trial.suggest_categorical("beta", [0.03, 0.1, 0.3])
        return values

    return space


def main(argv: list[str] | None = None) -> Any:
    """Reads the arguments, searches, prints what was found."""
    args = parse_args(Args, argv)
    if args.smoke:
        args = replace(args, n_trials=2, n_train=16, n_validation=8)
    silence_libraries()
    transformers.set_seed(args.seed)
    started = time.monotonic()
    name = embedded.path("gpt2-tiny") if args.offline else args.model
    train, validation = load_rows(args)
    with friendly_hub_errors(name):
        tokenizer = AutoTokenizer.from_pretrained(name)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token

    def make_trainer(params: dict[str, Any]) -> DPOTrainer | RewardTrainer:
        own = {"num_train_epochs": 1, "per_device_train_batch_size": 8, "seed": args.seed}
        given = {
            "output_dir": args.output,
            "eval_strategy": "epoch",
            "max_length": args.max_length,
            "report_to": "none",
            "disable_tqdm": False,
            "bf16": torch.cuda.is_available() and torch.cuda.is_bf16_supported(),
            "gradient_checkpointing": False,
            **own,
            **params,
        }
        parts = {"train_dataset": train, "eval_dataset": validation, "processing_class": tokenizer}
        if args.method == "dpo":
            return DPOTrainer(model=AutoModelForCausalLM.from_pretrained(name), args=DPOConfig(**given), **parts)
        model = AutoModelForSequenceClassification.from_pretrained(name, num_labels=1)
        model.config.pad_token_id = tokenizer.pad_token_id
        return RewardTrainer(model=model, args=RewardConfig(**given), **parts)

    best = hf_rlsearch.search(
        make_trainer,
        hp_space(args.method),
        metric=METRICS[args.method],
        direction="maximize",
        n_trials=args.n_trials,
        timeout=args.timeout,
    ).best_run
    print_result(best, "accuracy", started)
    return best


if __name__ == "__main__":
    main()
