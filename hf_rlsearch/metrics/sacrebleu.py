"""BLEU in the range 0 to 100, from sacrebleu; same arguments and values as the Hub's module of this name."""

from typing import Any

import datasets
import evaluate
from sacrebleu.metrics.bleu import BLEU

from hf_rlsearch.metrics._bundled import BundledMetric

TEXT = datasets.Value("string")


class Sacrebleu(BundledMetric):
    """Corpus BLEU of detokenized text, in [0, 100], larger is better (Post 2018)."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=str(self.__doc__),
            citation="Post 2018, A call for clarity in reporting BLEU scores (W18-6319)",
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
        smooth_method: str = "exp",
        smooth_value: float | None = None,
        force: bool = False,
        lowercase: bool = False,
        tokenize: str | None = None,
        use_effective_order: bool = False,
    ) -> dict[str, Any]:
        references = [[reference] if isinstance(reference, str) else reference for reference in references]
        if len({len(group) for group in references}) != 1:
            raise ValueError("sacrebleu needs the same number of references for each prediction.")
        bleu = BLEU(
            lowercase=lowercase,
            force=force,
            tokenize=tokenize,
            smooth_method=smooth_method,
            smooth_value=smooth_value,
            effective_order=use_effective_order,
        )
        score = bleu.corpus_score(predictions, [list(stream) for stream in zip(*references, strict=True)])
        return {
            "score": score.score,
            "counts": score.counts,
            "totals": score.totals,
            "precisions": score.precisions,
            "bp": score.bp,
            "sys_len": score.sys_len,
            "ref_len": score.ref_len,
        }
