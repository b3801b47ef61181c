"""Supervised fine-tuning with TRL's SFTTrainer, which builds its own model: the search takes a function that makes it.

    python recipes/sft.py --model HuggingFaceTB/SmolLM2-135M --data trl-lib/Capybara
    python recipes/sft.py --offline                # embedded GPT-2: from the first words of a docstring to its rest

Needs trl: ``pip install ".[recipes]"`` in the root of the repository.
"""

import time
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import transformers
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer

import hf_rlsearch
from common import friendly_hub_errors, load_parts, parse_args, print_result, silence_libraries
from hf_rlsearch import embedded


@dataclass
class Args:
    """Searches the hyperparameters of supervised fine-tuning; the objective is the loss on held-out answers."""

    model: str = field(default="HuggingFaceTB/SmolLM2-135M", metadata={"help": "name on the Hub, or a folder"})
    data: str = field(default="trl-lib/Capybara", metadata={"help": "name on the Hub, in a format that TRL knows"})
    offline: bool = field(default=False, metadata={"help": "embedded checkpoint and docstrings, no network"})
    smoke: bool = field(default=False, metadata={"help": "two tiny trials offline, to see that everything runs"})
    n_trials: int = field(default=8, metadata={"help": "trials, trial 0 (these arguments as they are) included"})
    timeout: float | None = field(default=None, metadata={"help": "seconds after which no new trial begins"})
    n_train: int = field(default=300, metadata={"help": "rows to train on"})
    n_validation: int = field(default=100, metadata={"help": "rows to validate on"})
    max_length: int = field(default=96, metadata={"help": "tokens per row, the rest is cut off"})
    seed: int = field(default=42, metadata={"help": "seed of the rows, the trainings and the search"})
    output: str = field(default="runs/sft", metadata={"help": "folder of trials and storage"})


def load_rows(args: Args) -> tuple[Dataset, Dataset]:
    """Returns the rows to train and to validate on; offline with the columns ``prompt`` and ``completion``."""
    if args.offline:
        rows = embedded.language_modeling_dataset(args.seed, args.n_train, args.n_validation)
        return tuple(rows[split].map(split_docstring, remove_columns=["text"]) for split in ("train", "validation"))
    return load_parts(args.data, args.seed, args.n_train, args.n_validation)


def split_docstring(row: dict[str, str]) -> dict[str, str]:
    """The first three words ask, the rest answers."""
    words = row["text"].split(" ")
    return {"prompt": " ".join(words[:3]), "completion": " " + " ".join(words[3:])}


def hp_space(trial: Any) -> dict[str, Any]:
    """Fields of ``SFTConfig``; none that changes which tokens are scored, else losses could not be compared."""
    return {
        "learning_rate": trial.suggest_float("learning_rate", 1e-5, 1e-2, log=True),
        "per_device_train_batch_size": trial.suggest_categorical("per_device_train_batch_size", [4, 8, 16]),
        "num_train_epochs": trial.suggest_int("num_train_epochs", 1, 3),
        "lr_scheduler_type": trial.suggest_categorical("lr_scheduler_type", ["linear", "cosine", "constant"]),
    }


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

    def make_trainer(params: dict[str, Any]) -> SFTTrainer:
        own = {"num_train_epochs": 1, "per_device_train_batch_size": 8, "completion_only_loss": True, "seed": args.seed}
        config = SFTConfig(
            output_dir=args.output,
            eval_strategy="epoch",
            max_length=args.max_length,
            report_to="none",
            disable_tqdm=False,
            bf16=torch.cuda.is_available() and torch.cuda.is_bf16_supported(),
            gradient_checkpointing=False,
            dataset_num_proc=None,
            **{**own, **params},
        )
        model = AutoModelForCausalLM.from_pretrained(name)
        return SFTTrainer(
            model=model, args=config, train_dataset=train, eval_dataset=validation, processing_class=tokenizer
        )

    best = hf_rlsearch.search(
        make_trainer, hp_space, metric="loss", direction="minimize", n_trials=args.n_trials, timeout=args.timeout
    ).best_run
    print_result(best, "loss", started)
    return best


if __name__ == "__main__":
    main()
