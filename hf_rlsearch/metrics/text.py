"""Scores generated texts: BLEU, chrF, sacreBLEU, ROUGE, exact match, and perplexity under a language model.

Arguments and values equal those of the Hub's modules of the same names. Each function imports its own library, so that
a missing library stops no other metric.
"""

import math
import re
import string
from collections.abc import Callable, Sequence
from itertools import zip_longest
from types import SimpleNamespace
from typing import Any

import datasets
import numpy as np

from hf_rlsearch.metrics.base import ONE_OR_MORE_REFERENCES, TEXT, Definition

ROUGE_TYPES = ("rouge1", "rouge2", "rougeL", "rougeLsum")


def _groups(references: list[Any]) -> list[list[str]]:
    return [[group] if isinstance(group, str) else group for group in references]


def _streams(name: str, references: list[Any]) -> list[list[str]]:
    """Transposes references for sacrebleu: the first of every prediction, the second of every prediction, ..."""
    groups = _groups(references)
    if len({len(group) for group in groups}) != 1:
        raise ValueError(f"{name} needs the same number of references for each prediction.")
    return [list(stream) for stream in zip(*groups, strict=True)]


def bleu(
    predictions: list[str],
    references: list[Any],
    tokenizer: Callable[[str], list[str]] | None = None,
    max_order: int = 4,
    smooth: bool = False,
) -> dict[str, Any]:
    """Corpus BLEU against the shortest reference, in [0, 1], larger is better (Papineni et al. 2002)."""
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

    tokenizer_13a = Tokenizer13a()  # type: ignore[no-untyped-call]
    split = tokenizer or (lambda text: tokenizer_13a(text).split())
    texts = [" ".join(split(text)) for text in predictions]
    groups = [[" ".join(split(text)) for text in group] for group in _groups(references)]
    # With force, sacrebleu accepts tokenized text without a warning; None stands for a missing reference.
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
    # An untrained model may generate nothing at all: the score is then zero, not an error.
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


def sacrebleu(
    predictions: list[str], references: list[Any], use_effective_order: bool = False, **options: Any
) -> dict[str, Any]:
    """Corpus BLEU of detokenized text, in [0, 100], larger is better (Post 2018)."""
    from sacrebleu.metrics.bleu import BLEU

    counter = BLEU(effective_order=use_effective_order, **options)
    score = counter.corpus_score(predictions, _streams("sacrebleu", references))
    return {key: getattr(score, key) for key in ("score", "counts", "totals", "precisions", "bp", "sys_len", "ref_len")}


def chrf(predictions: list[str], references: list[Any], **options: Any) -> dict[str, Any]:
    """Corpus F-score of character n-grams (word n-grams as well: chrF++), in [0, 100], larger is better."""
    from sacrebleu.metrics.chrf import CHRF

    score = CHRF(**options).corpus_score(predictions, _streams("chrf", references))
    return {key: getattr(score, key) for key in ("score", "char_order", "word_order", "beta")}


def rouge(
    predictions: list[str],
    references: list[Any],
    rouge_types: Sequence[str] = ROUGE_TYPES,
    use_aggregator: bool = True,
    use_stemmer: bool = False,
    tokenizer: Callable[[str], list[str]] | None = None,
) -> dict[str, Any]:
    """F-scores of common n-grams and longest common subsequences, in [0, 1], larger is better (Lin 2004)."""
    from rouge_score import rouge_scorer, scoring

    wrapped = SimpleNamespace(tokenize=tokenizer) if tokenizer else None
    scorer = rouge_scorer.RougeScorer(list(rouge_types or ROUGE_TYPES), use_stemmer=use_stemmer, tokenizer=wrapped)
    pairs = zip(_groups(references), predictions, strict=True)
    scores = [scorer.score_multi(group, text) for group, text in pairs]
    if not use_aggregator:
        return {name: [score[name].fmeasure for score in scores] for name in scores[0]}
    # The aggregate is a bootstrap median. A fixed seed makes the same texts always score the same; evaluate restores
    # the state of the generator afterwards.
    np.random.seed(0)
    aggregator = scoring.BootstrapAggregator()
    for score in scores:
        aggregator.add_scores(score)
    return {name: float(score.mid.fmeasure) for name, score in aggregator.aggregate().items()}


def exact_match(
    predictions: list[str],
    references: list[str],
    regexes_to_ignore: Sequence[str] | None = None,
    ignore_case: bool = False,
    ignore_punctuation: bool = False,
    ignore_numbers: bool = False,
) -> dict[str, float]:
    """The share of predicted texts that equal their reference, in [0, 1], larger is better."""
    removed = string.punctuation * ignore_punctuation + string.digits * ignore_numbers

    def normalized(text: str) -> str:
        for pattern in regexes_to_ignore or ():
            text = re.sub(pattern, "", text)
        return (text.lower() if ignore_case else text).translate(str.maketrans("", "", removed))

    # Two texts of which nothing is left match only if they were equal before.
    pairs = zip(predictions, references, strict=True)
    matches = [normalized(a) == normalized(b) and (a == b or normalized(a) != "") for a, b in pairs]
    return {"exact_match": float(np.mean(matches))}


def perplexity(
    predictions: list[str],
    model_id: str,
    add_start_token: bool = True,
    max_length: int | None = None,
    device: str = "cpu",
) -> dict[str, Any]:
    """The exponential of a text's mean negative log-likelihood per token, at least 1, smaller is better."""
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


DEFINITIONS = {
    "bleu": Definition(
        score=bleu,
        features=ONE_OR_MORE_REFERENCES,
        inputs="predictions: texts; references: one or more texts each; tokenizer: text -> list.",
        citation="Papineni et al. 2002, BLEU: a method for automatic evaluation of machine translation",
    ),
    "sacrebleu": Definition(
        score=sacrebleu,
        features=ONE_OR_MORE_REFERENCES,
        inputs="predictions: texts; references: a text, or equally many texts, per prediction.",
        citation="Post 2018, A call for clarity in reporting BLEU scores (W18-6319)",
    ),
    "chrf": Definition(
        score=chrf,
        features=ONE_OR_MORE_REFERENCES,
        inputs="predictions: texts; references: a text, or equally many texts, per prediction.",
        citation="Popovic 2015, chrF: character n-gram F-score for automatic MT evaluation (W15-3049)",
    ),
    "rouge": Definition(
        score=rouge,
        features=ONE_OR_MORE_REFERENCES,
        inputs="predictions: texts; references: one or more texts per prediction; rouge_types.",
        citation="Lin 2004, ROUGE: a package for automatic evaluation of summaries (W04-1013)",
    ),
    "exact_match": Definition(
        score=exact_match,
        features=datasets.Features({"predictions": TEXT, "references": TEXT}),
        inputs="predictions and references: texts; regexes_to_ignore, ignore_case, ignore_punctuation, ignore_numbers.",
        citation="Rajpurkar et al. 2016, SQuAD: 100,000+ questions for machine comprehension (arXiv:1606.05250)",
    ),
    "perplexity": Definition(
        score=perplexity,
        features=datasets.Features({"predictions": TEXT}),
        inputs="predictions: texts; model_id: a folder or a name; add_start_token; max_length.",
        citation="Jelinek et al. 1977, Perplexity: a measure of the difficulty of speech recognition tasks",
    ),
}
