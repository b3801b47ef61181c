"""Fine-tune an encoder-decoder to summarise, and score what it generates with ROUGE.

python recipes/summarization.py --model google-t5/t5-small --data EdinburghNLP/xsum --text document --summary summary
python recipes/summarization.py --offline      # embedded BERT as encoder and decoder: docstrings to their first line
"""

import time
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import transformers
from datasets import Dataset, DatasetDict
from transformers import (
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    DataCollatorForSeq2Seq,
    EncoderDecoderModel,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
)

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


@dataclass
class Args:
    """Searches the hyperparameters of a summariser; the objective is ROUGE-L of generated text."""

    model: str = field(default="google-t5/t5-small", metadata={"help": "name on the Hub, or a folder"})
    data: str = field(default="EdinburghNLP/xsum", metadata={"help": "name on the Hub"})
    text: str = field(default="document", metadata={"help": "column of the texts"})
    summary: str = field(default="summary", metadata={"help": "column of the summaries"})
    prefix: str = field(default="summarize: ", metadata={"help": "what T5 wants before each text"})
    offline: bool = field(default=False, metadata={"help": "embedded checkpoint and docstrings, no network"})
    smoke: bool = field(default=False, metadata={"help": "two tiny trials offline, to see that everything runs"})
    backend: str = field(default="rl", metadata={"help": "rl, or another backend of transformers to compare with"})
    n_trials: int = field(default=8, metadata={"help": "trials, trial 0 (these arguments as they are) included"})
    timeout: float | None = field(default=None, metadata={"help": "seconds after which no new trial begins"})
    n_train: int | None = field(default=None, metadata={"help": "texts to train on, all if left out"})
    n_validation: int | None = field(default=None, metadata={"help": "texts to validate on, all if left out"})
    max_length: int = field(default=96, metadata={"help": "tokens of a text, the rest is cut off"})
    max_summary_length: int = field(default=24, metadata={"help": "tokens of a summary"})
    seed: int = field(default=42, metadata={"help": "seed of the texts, the trainings and the search"})
    output: str = field(default="runs/summarization", metadata={"help": "folder of trials and storage"})


def load_texts(args: Args) -> DatasetDict:
    """Returns ``train`` and ``validation`` with the columns ``text`` and ``summary``."""
    if args.offline:
        return first_lines(args)
    rows = take(load_splits(args.data), args.n_train, args.n_validation, seed=args.seed)
    return rows.map(
        lambda row: {"text": args.prefix + row[args.text], "summary": row[args.summary]},
        remove_columns=rows["train"].column_names,
    )


def first_lines(args: Args) -> DatasetDict:
    """Docstrings without their first line, and that line: PEP 257 asks it to be a summary."""
    rows = embedded.language_modeling_dataset(args.seed, 2870, 752)
    wanted = {"train": args.n_train or 600, "validation": args.n_validation or 100}
    parts = {}
    for split, n_rows in wanted.items():
        pairs = [text.split("\n\n", 1) for text in rows[split]["text"] if len(text.split("\n\n", 1)) == 2]
        pairs = [(rest, line) for line, rest in pairs if "\n" not in line and len(line.split()) > 2][:n_rows]
        parts[split] = Dataset.from_dict({"text": [rest for rest, _ in pairs], "summary": [line for _, line in pairs]})
    return DatasetDict(parts)


def make_model(args: Args, tokenizer: Any) -> Any:
    """Builds the model: offline, two embedded BERTs that attend to each other (Rothe et al. 2020)."""
    if not args.offline:
        return AutoModelForSeq2SeqLM.from_pretrained(args.model)
    bert = embedded.path("bert-tiny")
    model = EncoderDecoderModel.from_encoder_decoder_pretrained(bert, bert)
    model.config.decoder_start_token_id = tokenizer.cls_token_id
    model.config.pad_token_id = tokenizer.pad_token_id
    generation = model.generation_config
    generation.decoder_start_token_id, generation.pad_token_id = tokenizer.cls_token_id, tokenizer.pad_token_id
    generation.eos_token_id, generation.bos_token_id = tokenizer.sep_token_id, tokenizer.cls_token_id
    return model


def make_trainer(args: Args) -> Seq2SeqTrainer:
    """Makes the Trainer whose arguments are trial 0."""
    model = embedded.path("bert-tiny") if args.offline else args.model
    with friendly_hub_errors(model):
        tokenizer = AutoTokenizer.from_pretrained(model)

    def tokenize(batch: dict[str, list[str]]) -> dict[str, Any]:
        inputs = tokenizer(batch["text"], truncation=True, max_length=args.max_length)
        labels = tokenizer(text_target=batch["summary"], truncation=True, max_length=args.max_summary_length)
        names = ("input_ids", "attention_mask")
        return {**{name: inputs[name] for name in names}, "labels": labels["input_ids"]}

    rows = load_texts(args).map(tokenize, batched=True, remove_columns=["text", "summary"])
    rouge = load_metric("rouge")

    def compute_metrics(prediction: Any) -> dict[str, float]:
        ids = [
            np.where(part < 0, tokenizer.pad_token_id, part) for part in (prediction.predictions, prediction.label_ids)
        ]
        guess, reference = (tokenizer.batch_decode(part, skip_special_tokens=True) for part in ids)
        return rouge.compute(predictions=guess, references=reference, use_stemmer=True)

    return Seq2SeqTrainer(
        model_init=lambda: make_model(args, tokenizer),
        args=Seq2SeqTrainingArguments(
            output_dir=args.output,
            eval_strategy="epoch",
            per_device_eval_batch_size=50,
            predict_with_generate=True,
            generation_max_length=args.max_summary_length,
            generation_num_beams=1,
            seed=args.seed,
            report_to="none",
            disable_tqdm=False,
        ),
        train_dataset=rows["train"],
        eval_dataset=rows["validation"],
        processing_class=tokenizer,
        data_collator=DataCollatorForSeq2Seq(tokenizer),
        compute_metrics=compute_metrics,
    )


def tiny_space(trial: Any) -> dict[str, Any]:
    """A million parameters need far larger learning rates than the published ones, and time to attend to each other."""
    return {
        "learning_rate": trial.suggest_float("learning_rate", 2e-4, 1e-2, log=True),
        "per_device_train_batch_size": trial.suggest_categorical("per_device_train_batch_size", [4, 8, 16]),
        "num_train_epochs": trial.suggest_int("num_train_epochs", 4, 10),
    }


def search(args: Args) -> Any:
    """Runs the search and returns its ``BestRun``."""
    trainer = make_trainer(args)
    published = published_space(args.backend, trainer.model.config.model_type)
    return trainer.hyperparameter_search(
        **({"hp_space": tiny_space} if args.offline else published),
        direction="maximize",
        n_trials=args.n_trials,
        timeout=args.timeout,
        backend=args.backend,
        **objective(args.backend, "rougeL"),
    )


def main(argv: list[str] | None = None) -> Any:
    """Reads the arguments, searches, prints what was found."""
    args = parse_args(Args, argv)
    if args.smoke:
        args = replace(args, n_trials=2, n_train=16, n_validation=8, max_length=48)
    silence_libraries()
    transformers.set_seed(args.seed)
    started = time.monotonic()
    best = search(args)
    print_result(best, "rougeL", started)
    return best


if __name__ == "__main__":
    main()
