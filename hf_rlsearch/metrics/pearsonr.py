"""Pearson correlation, from scipy; same arguments and values as the Hub's module of this name."""

import datasets
import evaluate
from scipy.stats import pearsonr

from hf_rlsearch.metrics._bundled import BundledMetric


class Pearsonr(BundledMetric):
    """The linear correlation of two lists of numbers, in [-1, 1], larger is better; NaN for a constant guess."""

    def _info(self) -> evaluate.MetricInfo:
        number = datasets.Value("float")
        return evaluate.MetricInfo(
            description=str(self.__doc__),
            citation="Virtanen et al. 2020, SciPy 1.0: fundamental algorithms for scientific computing in Python",
            inputs_description="predictions and references: numbers; return_pvalue: whether to return the p-value too.",
            features=datasets.Features({"predictions": number, "references": number}),
        )

    def _compute(
        self, predictions: list[float], references: list[float], return_pvalue: bool = False
    ) -> dict[str, float]:
        result = pearsonr(references, predictions)
        scores = {"pearsonr": float(result[0])}
        return {**scores, "p-value": float(result[1])} if return_pvalue else scores
