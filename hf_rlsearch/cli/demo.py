"""Runs ``demo``: a real search in about two minutes, without a network.

The tiny BERT that ships with the package learns which topic of Python's standard library a sentence is about. Trial 0
uses the defaults of ``TrainingArguments``, which suit models a hundred times larger: the search can improve on them.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hf_rlsearch import embedded

if TYPE_CHECKING:  # these libraries stay unloaded until the command runs
    import optuna
    from transformers import Trainer

    from hf_rlsearch._typing import Params
    from hf_rlsearch.trainer.search.result import SearchResult


def run_demo(
    n_trials: Annotated[int, typer.Option(min=1, help="Trials of the search, trial 0 (the defaults) included.")] = 10,
    n_train: Annotated[int, typer.Option(min=1, help="Sentences to train on.")] = 600,
    n_validation: Annotated[int, typer.Option(min=1, help="Sentences to measure accuracy on.")] = 300,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the data, the trainings and the search.")] = 0,
    output: Annotated[Path, typer.Option(help="Folder of the trials, the storage and the report.")] = Path("runs/demo"),
) -> None:
    """Run a real search on the embedded checkpoint, without a network."""
    import datasets
    import transformers

    from hf_rlsearch.report import write_report  # before the search, so that a missing library shows at once

    transformers.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    transformers.logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # of loading, once per trial
    datasets.disable_progress_bars()
    print(f"{n_trials} trials of a BERT with half a million parameters on {n_train} sentences", flush=True)
    started = time.monotonic()
    result = search(make_trainer(n_train, n_validation, seed, output), n_trials)
    best, baseline = result.best_trial, result.baseline
    if result.gain is None or best is None or baseline is None:
        print("no gain: trial 0 (the defaults) did not complete")
    else:
        print(
            f"gain over trial 0 (the defaults): +{result.gain:.3f} accuracy "
            f"({baseline.values[0]:.3f} -> {best.values[0]:.3f}, trial {best.number})"
        )
    report = write_report(result.study, output / "report.html")
    print(f"{time.monotonic() - started:.0f} s; report: {report.resolve()}")


def make_trainer(
    n_train: int = 600, n_validation: int = 300, seed: int = 0, output: str | Path = "runs/demo"
) -> Trainer:
    """Makes the Trainer of the demonstration; every argument that decides how well the model learns has its default."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, Trainer, TrainingArguments

    checkpoint = embedded.path("bert-tiny")
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    rows = embedded.classification_dataset(seed, n_train, n_validation)
    rows = rows.map(lambda batch: tokenizer(batch["text"], truncation=True, max_length=48), batched=True)

    def model_init() -> Any:
        return AutoModelForSequenceClassification.from_pretrained(
            checkpoint, num_labels=len(embedded.TOPICS), id2label=dict(enumerate(embedded.TOPICS))
        )

    return Trainer(
        model_init=model_init,
        args=TrainingArguments(
            output_dir=str(output),
            eval_strategy="epoch",
            seed=seed,
            report_to="none",
            disable_tqdm=False,  # otherwise the level of logging in run_demo would hide the lines of the search
            dataloader_pin_memory=False,  # warns on machines without an accelerator
        ),
        train_dataset=rows["train"],
        eval_dataset=rows["validation"],
        processing_class=tokenizer,
        compute_metrics=accuracy,
    )


def accuracy(prediction: Any) -> dict[str, float]:
    """Computes the share of sentences whose most likely topic is the right one."""
    return {"accuracy": float((prediction.predictions.argmax(-1) == prediction.label_ids).mean())}


def hp_space(trial: optuna.Trial) -> Params:
    """Suggests the four hyperparameters that are tuned most often."""
    return {
        "learning_rate": trial.suggest_float("learning_rate", 1e-5, 1e-2, log=True),
        "per_device_train_batch_size": trial.suggest_categorical("per_device_train_batch_size", [4, 8, 16, 32]),
        "num_train_epochs": trial.suggest_int("num_train_epochs", 1, 4),
        "warmup_steps": trial.suggest_categorical("warmup_steps", [0.0, 0.1, 0.2]),
    }


def search(trainer: Trainer, n_trials: int) -> SearchResult:
    """Runs the search and returns its result."""
    best: Any = trainer.hyperparameter_search(
        hp_space=hp_space, backend="rl", n_trials=n_trials, metric="accuracy", direction="maximize"
    )
    return best.run_summary  # type: ignore[no-any-return]
