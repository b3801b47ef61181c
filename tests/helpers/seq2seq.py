"""A Seq2SeqTrainer of a tenth of a second: a random encoder-decoder that copies five tokens."""

from pathlib import Path
from typing import Any

import torch
from transformers import (
    MarianConfig,
    MarianMTModel,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
)


class Pairs(torch.utils.data.Dataset):  # type: ignore[type-arg]
    """Five token ids, to be copied."""

    def __init__(self, n: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.ids = torch.randint(3, 20, (n, 5), generator=generator)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        ids = self.ids[index]
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}


def copier() -> MarianMTModel:
    config = MarianConfig(
        vocab_size=20,
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        max_position_embeddings=16,
        pad_token_id=0,
        eos_token_id=1,
        forced_eos_token_id=None,
        decoder_start_token_id=0,
    )
    model = MarianMTModel(config)
    model.generation_config.max_length = 6
    model.generation_config.num_beams = 1
    return model


class Counts(Seq2SeqTrainer):
    """Records what it trains."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.trained: list[float] = []

    def train(self, *args: Any, **kwargs: Any) -> Any:
        self.trained.append(self.args.learning_rate)
        return super().train(*args, **kwargs)


def make_trainer(folder: Path, *, cls: type[Any] = Counts, **args: Any) -> Any:
    """The metrics are the number of beams that it generated with, "beams", and the share of equal tokens."""
    given = {
        "eval_strategy": "epoch",
        "save_strategy": "no",
        "num_train_epochs": 1,
        "per_device_train_batch_size": 16,
        "predict_with_generate": True,
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
        **args,
    }

    def compute(prediction: Any) -> dict[str, float]:
        guess, labels = prediction.predictions[:, 1:6], prediction.label_ids[:, :5]
        n = min(guess.shape[1], labels.shape[1])
        beams = trainer.model.generation_config.num_beams
        return {"accuracy": float((guess[:, :n] == labels[:, :n]).mean()), "beams": float(beams)}

    trainer = cls(
        model_init=lambda: copier(),
        args=Seq2SeqTrainingArguments(output_dir=str(folder), **given),
        train_dataset=Pairs(64, 0),
        eval_dataset=Pairs(16, 1),
        compute_metrics=compute,
    )
    return trainer
