"""ROUGE, from rouge-score; same arguments and values as the Hub's module of this name."""

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import datasets
import evaluate
import numpy as np
from rouge_score import rouge_scorer, scoring

from hf_rlsearch.metrics._bundled import BundledMetric

TEXT = datasets.Value("string")
TYPES = ("rouge1", "rouge2", "rougeL", "rougeLsum")


class Rouge(BundledMetric):
    """F-scores of common n-grams and longest common subsequences, in [0, 1], larger is better (Lin 2004)."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=str(self.__doc__),
            citation="Lin 2004, ROUGE: a package for automatic evaluation of summaries (W04-1013)",
            inputs_description="predictions: texts; references: one or more texts per prediction; rouge_types.",
            features=[
                datasets.Features({"predictions": TEXT, "references": datasets.Sequence(TEXT)}),
                datasets.Features({"predictions": TEXT, "references": TEXT}),
            ],
        )

    def _compute(
        self,
        predictions: list[str],
        references: list[Any],
        rouge_types: Sequence[str] | None = None,
        use_aggregator: bool = True,
        use_stemmer: bool = False,
        tokenizer: Callable[[str], list[str]] | None = None,
    ) -> dict[str, Any]:
        wrapped = SimpleNamespace(tokenize=tokenizer) if tokenizer else None
        scorer = rouge_scorer.RougeScorer(list(rouge_types or TYPES), use_stemmer=use_stemmer, tokenizer=wrapped)
        groups = [[group] if isinstance(group, str) else group for group in references]
        scores = [scorer.score_multi(group, text) for group, text in zip(groups, predictions, strict=True)]
        if not use_aggregator:
            return {name: [score[name].fmeasure for score in scores] for name in scores[0]}
        # The aggregate is a bootstrap median. A fixed seed makes the same texts always score the same; evaluate
        # restores the state of the generator afterwards.
        np.random.seed(0)
        aggregator = scoring.BootstrapAggregator()
        for score in scores:
            aggregator.add_scores(score)
        return {name: float(score.mid.fmeasure) for name, score in aggregator.aggregate().items()}
