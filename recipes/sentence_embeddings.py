"""Sentence embeddings with sentence-transformers, whose trainer builds no model for trials: a function makes it.

    python recipes/sentence_embeddings.py --data sentence-transformers/natural-questions
    python recipes/sentence_embeddings.py --offline    # embedded BERT: the first half of a docstring finds its rest

Needs sentence-transformers: ``pip install ".[recipes]"`` in the root of the repository.
"""

import time
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import transformers
from datasets import Dataset
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

import hf_rlsearch
from common import friendly_hub_errors, load_parts, parse_args, print_result, silence_libraries
from hf_rlsearch import embedded

# Of the evaluator below. The loss is no objective: more rows in a batch make it larger.
METRIC = "pairs_cosine_ndcg@10"


@dataclass
class Args:
    """Searches the hyperparameters of sentence embeddings; the objective is NDCG@10 of finding a text's partner."""

    model: str = field(
        default="sentence-transformers/all-MiniLM-L6-v2", metadata={"help": "name on the Hub, or a folder"}
    )
    data: str = field(
        default="sentence-transformers/natural-questions", metadata={"help": "name on the Hub; two columns of texts"}
    )
    offline: bool = field(default=False, metadata={"help": "embedded checkpoint and docstrings, no network"})
    smoke: bool = field(default=False, metadata={"help": "two tiny trials offline, to see that everything runs"})
    n_trials: int = field(default=8, metadata={"help": "trials, trial 0 (these arguments as they are) included"})
    timeout: float | None = field(default=None, metadata={"help": "seconds after which the search ends"})
    n_train: int = field(default=600, metadata={"help": "pairs to train on"})
    n_validation: int = field(default=200, metadata={"help": "pairs to validate on"})
    max_length: int = field(default=64, metadata={"help": "tokens per text, the rest is cut off"})
    seed: int = field(default=42, metadata={"help": "seed of the rows, the trainings and the search"})
    output: str = field(default="runs/embeddings", metadata={"help": "folder of trials and storage"})


def load_rows(args: Args) -> tuple[Dataset, Dataset]:
    """Returns pairs of texts to train and to validate on, in the columns ``anchor`` and ``positive``."""
    if args.offline:
        rows = embedded.language_modeling_dataset(args.seed, args.n_train, args.n_validation)
        return tuple(rows[split].map(halves, remove_columns=["text"]) for split in ("train", "validation"))
    parts = load_parts(args.data, args.seed, args.n_train, args.n_validation)
    names = dict(zip(parts[0].column_names[:2], ("anchor", "positive"), strict=True))
    return tuple(part.rename_columns(names).select_columns(["anchor", "positive"]) for part in parts)


def halves(row: dict[str, str]) -> dict[str, str]:
    """The two halves of a text belong together."""
    words = row["text"].split()
    middle = len(words) // 2
    return {"anchor": " ".join(words[:middle]), "positive": " ".join(words[middle:])}


def evaluator(rows: Dataset) -> InformationRetrievalEvaluator:
    """Looks for the partner of each text among the partners of all."""
    numbers = [str(i) for i in range(len(rows))]
    return InformationRetrievalEvaluator(
        queries=dict(zip(numbers, rows["anchor"], strict=True)),
        corpus=dict(zip(numbers, rows["positive"], strict=True)),
        relevant_docs={number: {number} for number in numbers},
        name="pairs",
        ndcg_at_k=[10],
    )


def hp_space(trial: Any) -> dict[str, Any]:
    """Training arguments, and the scale of the similarities within the loss, which ``make_trainer`` reads."""
    return {
        "learning_rate": trial.suggest_float("learning_rate", 5e-6, 5e-4, log=True),
        "per_device_train_batch_size": trial.suggest_categorical("per_device_train_batch_size", [8, 16, 32]),
        "num_train_epochs": trial.suggest_int("num_train_epochs", 1, 3),
        "scale": trial.suggest_categorical("scale", [10.0, 20.0, 40.0]),
    }


def main(argv: list[str] | None = None) -> Any:
    """Reads the arguments, searches, prints what was found."""
    args = parse_args(Args, argv)
    if args.smoke:
        args = replace(args, n_trials=2, n_train=16, n_validation=8)
    silence_libraries()
    transformers.set_seed(args.seed)
    started = time.monotonic()
    name = embedded.path("bert-tiny") if args.offline else args.model
    train, validation = load_rows(args)
    compare = evaluator(validation)

    def make_trainer(params: dict[str, Any]) -> SentenceTransformerTrainer:
        values = {"num_train_epochs": 1, "per_device_train_batch_size": 16, "seed": args.seed, **params}
        scale = values.pop("scale", 20.0)
        with friendly_hub_errors(name):
            model = SentenceTransformer(str(name), local_files_only=args.offline)
        model.max_seq_length = args.max_length
        arguments = SentenceTransformerTrainingArguments(
            output_dir=args.output,
            eval_strategy="epoch",
            report_to="none",
            disable_tqdm=False,
            bf16=torch.cuda.is_available() and torch.cuda.is_bf16_supported(),
            **values,
        )
        return SentenceTransformerTrainer(
            model=model,
            args=arguments,
            train_dataset=train,
            eval_dataset=validation,
            loss=MultipleNegativesRankingLoss(model, scale=scale),
            evaluator=compare,
        )

    best = hf_rlsearch.search(
        make_trainer, hp_space, metric=METRIC, direction="maximize", n_trials=args.n_trials, timeout=args.timeout
    ).best_run
    print_result(best, "ndcg", started)
    return best


if __name__ == "__main__":
    main()
