"""Exact match of texts; same arguments and values as the Hub's module of this name."""

import re
import string

import datasets
import evaluate
import numpy as np

from hf_rlsearch.metrics._bundled import BundledMetric

TEXT = datasets.Value("string")


class ExactMatch(BundledMetric):
    """The share of predicted texts that equal their reference, in [0, 1], larger is better."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=str(self.__doc__),
            citation="Rajpurkar et al. 2016, SQuAD: 100,000+ questions for machine comprehension (arXiv:1606.05250)",
            inputs_description="predictions and references: texts; what to ignore, in the order of the arguments.",
            features=datasets.Features({"predictions": TEXT, "references": TEXT}),
        )

    def _compute(
        self,
        predictions: list[str],
        references: list[str],
        regexes_to_ignore: list[str] | None = None,
        ignore_case: bool = False,
        ignore_punctuation: bool = False,
        ignore_numbers: bool = False,
    ) -> dict[str, float]:
        removed = string.punctuation * ignore_punctuation + string.digits * ignore_numbers

        def normalized(text: str) -> str:
            for pattern in regexes_to_ignore or ():
                text = re.sub(pattern, "", text)
            return (text.lower() if ignore_case else text).translate(str.maketrans("", "", removed))

        # two texts that vanish altogether match only if they were the same before
        pairs = zip(predictions, references, strict=True)
        matches = [normalized(a) == normalized(b) and (a == b or normalized(a) != "") for a, b in pairs]
        return {"exact_match": float(np.mean(matches))}
