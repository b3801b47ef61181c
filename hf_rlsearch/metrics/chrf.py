"""chrF and chrF++, from sacrebleu; same arguments and values as the Hub's module of this name."""

from typing import Any

import datasets
import evaluate
from sacrebleu.metrics.chrf import CHRF

from hf_rlsearch.metrics._bundled import BundledMetric

TEXT = datasets.Value("string")


class Chrf(BundledMetric):
    """Corpus F-score of character n-grams (word n-grams as well: chrF++), in [0, 100], larger is better."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=str(self.__doc__),
            citation="Popovic 2015, chrF: character n-gram F-score for automatic MT evaluation (W15-3049)",
            inputs_description="predictions: texts; references: a text, or equally many texts, per prediction.",
            features=[
                datasets.Features({"predictions": TEXT, "references": datasets.Sequence(TEXT)}),
                datasets.Features({"predictions": TEXT, "references": TEXT}),
            ],
        )

    def _compute(
        self,
        predictions: list[str],
        references: list[Any],
        char_order: int = 6,
        word_order: int = 0,
        beta: int = 2,
        lowercase: bool = False,
        whitespace: bool = False,
        eps_smoothing: bool = False,
    ) -> dict[str, Any]:
        references = [[reference] if isinstance(reference, str) else reference for reference in references]
        if len({len(group) for group in references}) != 1:
            raise ValueError("chrf needs the same number of references for each prediction.")
        chrf = CHRF(char_order, word_order, beta, lowercase, whitespace, eps_smoothing)
        score = chrf.corpus_score(predictions, [list(stream) for stream in zip(*references, strict=True)])
        return {
            "score": score.score,
            "char_order": score.char_order,
            "word_order": score.word_order,
            "beta": score.beta,
        }
