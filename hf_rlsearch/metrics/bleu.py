"""BLEU in the range 0 to 1, counted by sacrebleu; same arguments and values as the Hub's module of this name."""

import math
from collections.abc import Callable
from itertools import zip_longest
from typing import Any

import datasets
import evaluate
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

from hf_rlsearch.metrics._bundled import BundledMetric

TEXT = datasets.Value("string")


class Bleu(BundledMetric):
    """Corpus BLEU against the shortest reference, in [0, 1], larger is better (Papineni et al. 2002)."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=str(self.__doc__),
            citation="Papineni et al. 2002, BLEU: a method for automatic evaluation of machine translation",
            inputs_description="predictions: texts; references: one or more texts each; tokenizer: text -> list.",
            features=[
                datasets.Features({"predictions": TEXT, "references": datasets.Sequence(TEXT)}),
                datasets.Features({"predictions": TEXT, "references": TEXT}),
            ],
        )

    def _compute(
        self,
        predictions: list[str],
        references: list[Any],
        tokenizer: Callable[[str], list[str]] | None = None,
        max_order: int = 4,
        smooth: bool = False,
    ) -> dict[str, Any]:
        tokenizer_13a = Tokenizer13a()  # type: ignore[no-untyped-call]
        split = tokenizer or (lambda text: tokenizer_13a(text).split())
        texts = [" ".join(split(text)) for text in predictions]
        groups = [[group] if isinstance(group, str) else group for group in references]
        groups = [[" ".join(split(text)) for text in group] for group in groups]
        # force: the text is tokenized on purpose; zip_longest: sacrebleu takes None for a missing reference
        counter = BLEU(tokenize="none", force=True, smooth_method="none", max_ngram_order=max_order)
        score = counter.corpus_score(texts, [list(stream) for stream in zip_longest(*groups)])
        extra = int(smooth)
        precisions = [
            (count + extra) / (total + extra) if total + extra else 0.0
            for count, total in zip(score.counts, score.totals, strict=True)
        ]
        length = sum(len(text.split()) for text in texts)
        reference_length = sum(min(len(text.split()) for text in group) for group in groups)
        ratio = length / reference_length if reference_length else 0.0
        # a model that has learned nothing may generate nothing at all: that is a score of zero, not an error
        penalty = 1.0 if ratio > 1.0 else math.exp(1.0 - 1.0 / ratio) if ratio else 0.0
        mean = math.exp(sum(map(math.log, precisions)) / max_order) if min(precisions) > 0 else 0.0
        return {
            "bleu": mean * penalty,
            "precisions": precisions,
            "brevity_penalty": penalty,
            "length_ratio": ratio,
            "translation_length": length,
            "reference_length": reference_length,
        }
