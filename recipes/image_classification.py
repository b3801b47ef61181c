"""Train a small vision transformer: the search is not only for text. The data are scikit-learn's 8 x 8 digits.

python recipes/image_classification.py                # needs no network
"""

import time
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import transformers
from datasets import Dataset
from sklearn.datasets import load_digits
from transformers import Trainer, TrainingArguments, ViTConfig, ViTForImageClassification

import hf_rlsearch  # noqa: F401  registers backend="rl"
from common import objective, parse_args, print_result, silence_libraries
from hf_rlsearch.metrics import load_metric


@dataclass
class Args:
    """Searches training arguments, width, depth and dropout of a vision transformer from scratch."""

    offline: bool = field(default=True, metadata={"help": "the data come with scikit-learn: no network is ever used"})
    smoke: bool = field(default=False, metadata={"help": "two tiny trials offline, to see that everything runs"})
    backend: str = field(default="rl", metadata={"help": "rl, or another backend of transformers to compare with"})
    n_trials: int = field(default=12, metadata={"help": "trials, trial 0 (these arguments as they are) included"})
    timeout: float | None = field(default=None, metadata={"help": "seconds after which no new trial begins"})
    n_train: int = field(default=1000, metadata={"help": "images to train on"})
    n_validation: int = field(default=400, metadata={"help": "images to validate on"})
    epochs: float = field(default=8.0, metadata={"help": "epochs of every trial"})
    seed: int = field(default=42, metadata={"help": "seed of the images, the trainings and the search"})
    output: str = field(default="runs/image_classification", metadata={"help": "folder of trials and storage"})


def load_images(args: Args) -> tuple[Dataset, Dataset]:
    """Returns the images to train and to validate on: ``pixel_values`` 1 x 8 x 8 in [-1, 1], and ``labels`` 0 to 9."""
    digits = load_digits()
    if args.n_train + args.n_validation > len(digits.target):
        raise SystemExit(
            f"n_train={args.n_train} and n_validation={args.n_validation} are more than the {len(digits.target)} "
            "images that there are. Ask for fewer."
        )
    order = np.random.default_rng(args.seed).permutation(len(digits.target))
    pixels = (digits.images[order, None] / 8.0 - 1.0).astype(np.float32)
    rows = Dataset.from_dict({"pixel_values": pixels.tolist(), "labels": digits.target[order].tolist()})
    rows = rows.with_format("torch")
    return rows.select(range(args.n_train)), rows.select(range(args.n_train, args.n_train + args.n_validation))


def model_init(trial: Any = None) -> ViTForImageClassification:
    """Builds the model: of trial 0 without a trial, else of the width, depth and dropout that the trial suggests."""
    width = 32 if trial is None else trial.suggest_categorical("width", [16, 32, 64])
    config = ViTConfig(
        image_size=8,
        patch_size=2,
        num_channels=1,
        num_labels=10,
        hidden_size=width,
        intermediate_size=2 * width,
        num_attention_heads=4,
        num_hidden_layers=2 if trial is None else trial.suggest_int("depth", 1, 4),
        hidden_dropout_prob=0.0 if trial is None else trial.suggest_categorical("dropout", [0.0, 0.1, 0.2]),
    )
    return ViTForImageClassification(config)


def hp_space(trial: Any) -> dict[str, Any]:
    """The training arguments; what the model is made of is suggested in ``model_init``."""
    return {
        "learning_rate": trial.suggest_float("learning_rate", 1e-5, 3e-2, log=True),
        "per_device_train_batch_size": trial.suggest_categorical("per_device_train_batch_size", [8, 16, 32, 64]),
        "lr_scheduler_type": trial.suggest_categorical("lr_scheduler_type", ["linear", "cosine", "constant"]),
    }


def make_trainer(args: Args) -> Trainer:
    """Makes the Trainer whose arguments are trial 0."""
    metric = load_metric("accuracy")
    train, validation = load_images(args)
    return Trainer(
        model_init=model_init,
        args=TrainingArguments(
            output_dir=args.output,
            num_train_epochs=args.epochs,
            eval_strategy="epoch",
            per_device_eval_batch_size=200,
            seed=args.seed,
            report_to="none",
            disable_tqdm=False,
        ),
        train_dataset=train,
        eval_dataset=validation,
        compute_metrics=lambda prediction: metric.compute(
            predictions=prediction.predictions.argmax(-1), references=prediction.label_ids
        ),
    )


def search(args: Args, trainer: Trainer, **options: Any) -> Any:
    """Runs the search and returns its ``BestRun``; ``options`` are more arguments of ``hyperparameter_search``."""
    return trainer.hyperparameter_search(
        hp_space=hp_space,
        direction="maximize",
        n_trials=args.n_trials,
        timeout=args.timeout,
        backend=args.backend,
        **objective(args.backend, "accuracy"),
        **options,
    )


def main(argv: list[str] | None = None) -> Any:
    """Reads the arguments, searches, prints what was found."""
    args = parse_args(Args, argv)
    if args.smoke:
        args = replace(args, n_trials=2, n_train=64, n_validation=32, epochs=1.0)
    silence_libraries()
    transformers.set_seed(args.seed)
    started = time.monotonic()
    best = search(args, make_trainer(args))
    print_result(best, "accuracy", started)
    return best


if __name__ == "__main__":
    main()
