"""Searches on real data: GLUE-type sets beside the repository, on the embedded BERT; skipped where they are missing."""

from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, load_dataset
from transformers import AutoModelForSequenceClassification, AutoTokenizer, Trainer, TrainingArguments

import hf_rlsearch  # noqa: F401  registers the backend
from hf_rlsearch import embedded
from hf_rlsearch.metrics import load_metric

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
TASKS = {
    "sst2": (("sentence",), "accuracy"),
    "cola": (("sentence",), "matthews_correlation"),
    "mrpc": (("sentence1", "sentence2"), "f1"),
}
pytestmark = [
    pytest.mark.data,
    pytest.mark.skipif(not DATA.is_dir(), reason="the real data sets of ../shared/data are not here"),
]


def rows(task: str, split: str, count: int, cache: Path) -> Dataset:
    """The first rows of a shuffled split, tokenised for BERT-tiny."""
    tokenizer = AutoTokenizer.from_pretrained(embedded.path("bert-tiny"))
    data = load_dataset("json", data_files=str(DATA / task / f"{split}.jsonl.gz"), split="train", cache_dir=str(cache))
    columns = TASKS[task][0]
    return (
        data.shuffle(seed=0)
        .select(range(count))
        .map(lambda row: tokenizer(*(row[c] for c in columns), truncation=True, max_length=24, padding="max_length"))
        .select_columns(["input_ids", "attention_mask", "label"])
    )


def hp_space(trial: Any) -> dict[str, Any]:
    return {
        "learning_rate": trial.suggest_float("learning_rate", 1e-5, 1e-2, log=True),
        "per_device_train_batch_size": trial.suggest_categorical("per_device_train_batch_size", [8, 16, 32]),
    }


@pytest.mark.parametrize("task", TASKS)
def test_a_search_on_real_sentences(task: str, tmp_path: Path) -> None:
    name = TASKS[task][1]
    metric = load_metric(name)
    trainer = Trainer(
        model_init=lambda: AutoModelForSequenceClassification.from_pretrained(embedded.path("bert-tiny"), num_labels=2),
        args=TrainingArguments(
            str(tmp_path),
            eval_strategy="epoch",
            num_train_epochs=2,
            report_to="none",
            disable_tqdm=True,
            dataloader_pin_memory=False,
        ),
        train_dataset=rows(task, "train", 96, tmp_path),
        eval_dataset=rows(task, "validation", 64, tmp_path),
        compute_metrics=lambda p: metric.compute(predictions=p.predictions.argmax(-1), references=p.label_ids),
    )
    best = trainer.hyperparameter_search(hp_space, backend="rl", metric=name, n_trials=3)
    result = best.run_summary
    assert len(result.trials) == 3
    assert result.baseline.number == 0
    assert best.objective >= result.baseline.value
    assert trainer.evaluate()[f"eval_{name}"] == pytest.approx(best.objective)
