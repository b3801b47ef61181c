"""Perplexity of texts under a causal language model; same values as the Hub's module, one text at a time."""

import math
from typing import Any

import datasets
import evaluate

from hf_rlsearch.metrics._bundled import BundledMetric


class Perplexity(BundledMetric):
    """The exponential of a text's mean negative log-likelihood per token, at least 1, smaller is better."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=str(self.__doc__),
            citation="Jelinek et al. 1977, Perplexity: a measure of the difficulty of speech recognition tasks",
            inputs_description="predictions: texts; model_id: a folder or a name; add_start_token; max_length.",
            features=datasets.Features({"predictions": datasets.Value("string")}),
        )

    def _compute(
        self,
        predictions: list[str],
        model_id: str,
        add_start_token: bool = True,
        max_length: int | None = None,
        device: str = "cpu",
    ) -> dict[str, Any]:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(model_id)
        if add_start_token and tokenizer.bos_token is None:
            raise ValueError(f"the tokenizer of {model_id!r} has no start token: pass add_start_token=False.")
        model = AutoModelForCausalLM.from_pretrained(model_id).requires_grad_(False)
        model.to(device)  # type: ignore[arg-type]  # annotated for the unbound method
        start = tokenizer.bos_token if add_start_token else ""
        perplexities = []
        for text in predictions:
            encoded = tokenizer(
                start + text,
                add_special_tokens=False,
                return_tensors="pt",
                truncation=max_length is not None,
                max_length=max_length,
            ).to(device)
            if encoded["input_ids"].shape[1] < 2:
                raise ValueError(f"{text!r} has fewer than two tokens; with add_start_token=True one would be enough.")
            loss = model(input_ids=encoded["input_ids"], labels=encoded["input_ids"]).loss
            perplexities.append(math.exp(float(loss)))
        return {"perplexities": perplexities, "mean_perplexity": sum(perplexities) / len(perplexities)}
