"""A real search in about two minutes, with no network: ``python -m hf_rlsearch.demo`` (or ``make demo``).

The tiny BERT that ships with the package learns which topic of Python's standard library a sentence is about. Trial 0
is what a user gets who changes nothing, the defaults of ``TrainingArguments``; they suit models a hundred times larger,
so there is something to be found.
"""

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hf_rlsearch import embedded
from hf_rlsearch._typing import Params


@dataclass
class Args:
    """A demonstration of trainer.hyperparameter_search(backend="rl") on the embedded checkpoint and data."""

    n_trials: int = field(default=10, metadata={"help": "trials of the search, trial 0 (the defaults) included"})
    n_train: int = field(default=600, metadata={"help": "sentences to train on"})
    n_validation: int = field(default=300, metadata={"help": "sentences to measure accuracy on"})
    seed: int = field(default=0, metadata={"help": "seed of the data, the trainings and the search"})
    output: str = field(default="runs/demo", metadata={"help": "folder of the trials, the storage and the report"})


def hp_space(trial: Any) -> Params:
    """The space of the demonstration: the four hyperparameters that everybody tunes."""
    return {
        "learning_rate": trial.suggest_float("learning_rate", 1e-5, 1e-2, log=True),
        "per_device_train_batch_size": trial.suggest_categorical("per_device_train_batch_size", [4, 8, 16, 32]),
        "num_train_epochs": trial.suggest_int("num_train_epochs", 1, 4),
        "warmup_steps": trial.suggest_categorical("warmup_steps", [0.0, 0.1, 0.2]),
    }


def make_trainer(args: Args) -> Any:
    """Makes the Trainer of the demonstration; all that decides how well it trains is at its default.

    Args:
        args: how much data, which seed, where to write.

    Returns:
        A ``transformers.Trainer`` with a ``model_init``, evaluated once per epoch.
    """
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, Trainer, TrainingArguments

    checkpoint = embedded.path("bert-tiny")
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    rows = embedded.classification_dataset(args.seed, args.n_train, args.n_validation)
    names = rows["train"].features["label"].names
    rows = rows.map(lambda batch: tokenizer(batch["text"], truncation=True, max_length=48), batched=True)

    def model_init() -> Any:
        return AutoModelForSequenceClassification.from_pretrained(
            checkpoint, num_labels=len(names), id2label=dict(enumerate(names))
        )

    return Trainer(
        model_init=model_init,
        args=TrainingArguments(
            output_dir=args.output,
            eval_strategy="epoch",
            seed=args.seed,
            report_to="none",
            disable_tqdm=False,  # whatever the level of logging: the search shows one line per trial
            dataloader_pin_memory=False,  # warns on machines without an accelerator
        ),
        train_dataset=rows["train"],
        eval_dataset=rows["validation"],
        processing_class=tokenizer,
        compute_metrics=accuracy,
    )


def accuracy(prediction: Any) -> dict[str, float]:
    """The share of sentences whose most likely topic is the right one."""
    return {"accuracy": float((prediction.predictions.argmax(-1) == prediction.label_ids).mean())}


def search(args: Args) -> Any:
    """Runs the search and writes its report to ``report.html`` in the output folder.

    Returns:
        The ``BestRun``; its ``run_summary`` is the whole search.
    """
    trainer = make_trainer(args)
    best = trainer.hyperparameter_search(
        hp_space=hp_space, backend="rl", n_trials=args.n_trials, metric="accuracy", direction="maximize"
    )
    best.run_summary.report(Path(args.output) / "report.html")
    return best


def main(argv: list[str] | None = None) -> None:
    """Reads the command line, searches, and prints what was gained over the defaults."""
    import datasets
    import transformers

    parser = transformers.HfArgumentParser(Args, prog="python -m hf_rlsearch.demo")  # type: ignore[arg-type]
    args, rest = parser.parse_args_into_dataclasses(argv, return_remaining_strings=True)
    if rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    transformers.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    transformers.logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # of loading, once per trial
    datasets.disable_progress_bars()
    print(f"{args.n_trials} trials of a BERT with half a million parameters on {args.n_train} sentences", flush=True)
    started = time.monotonic()
    result = search(args).run_summary
    print(gain(result))
    print(f"{time.monotonic() - started:.0f} s; report: {(Path(args.output) / 'report.html').resolve()}")


def gain(result: Any) -> str:
    """One sentence: how much better the best trial is than trial 0.

    Args:
        result: the ``SearchResult`` of the search.
    """
    best, baseline = result.best_trial, result.baseline
    if best is None:
        return "no trial completed"
    if result.gain is None or baseline is None:
        return f"best: accuracy {best.values[0]:.3f} in trial {best.number}; trial 0 has none to compare with"
    return (
        f"gain over trial 0 (the defaults): +{result.gain:.3f} accuracy "
        f"({baseline.values[0]:.3f} -> {best.values[0]:.3f}, trial {best.number})"
    )


if __name__ == "__main__":
    main()
