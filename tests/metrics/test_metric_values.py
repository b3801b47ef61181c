"""The bundled metrics give the values that the Hub's modules publish in their documentation."""

from typing import Any

import pytest

pytest.importorskip("sacrebleu")
pytest.importorskip("rouge_score")

from hf_rlsearch.metrics import load_metric

SIX = {"references": [0, 1, 2, 0, 1, 2], "predictions": [0, 1, 1, 2, 1, 0]}
FIVE = {"references": [0, 1, 0, 1, 0], "predictions": [0, 0, 1, 1, 0]}
THREE = {"predictions": [0, 2, 1, 0, 0, 1], "references": [0, 1, 2, 0, 1, 2]}
MCC = {"references": [1, 3, 2, 0, 3, 2], "predictions": [1, 2, 2, 0, 3, 3]}
NUMBERS = {"predictions": [10, 9, 2.5, 6, 4], "references": [1, 2, 3, 4, 5]}
KENOBI = {
    "predictions": ["hello there general kenobi", "foo bar foobar"],
    "references": [["hello there general kenobi", "hello there !"], ["foo bar foobar"]],
}
KENOBI_TWICE = {**KENOBI, "references": [KENOBI["references"][0], ["foo bar foobar", "foo bar foobar"]]}
MORPORK = {
    "predictions": ["hello there general kenobi", "on our way to ankh morpork"],
    "references": [["hello there general kenobi", "hello there !"], ["goodbye ankh morpork", "ankh morpork"]],
}
CATS = {
    "predictions": [
        "The relationship between cats and dogs is not exactly friendly.",
        "a good bookshop is just a genteel black hole that knows how to read.",
    ],
    "references": [
        ["The relationship between dogs and cats is not exactly friendly."],
        ["A good bookshop is just a genteel Black Hole that knows how to read."],
    ],
}
ANKH = {"predictions": ["hello goodbye", "ankh morpork"], "references": ["goodbye", "general kenobi"]}
AGENT = {
    "references": ["the cat", "theater", "YELLING", "agent007"],
    "predictions": ["cat?", "theater", "yelling", "agent"],
}
SENTENCES = {
    "references": ["The cat sat on the mat.", "Theaters are great.", "It's like comparing oranges and apples."],
    "predictions": ["The cat sat on the mat?", "Theaters are great.", "It's like comparing apples and oranges."],
}
BLEU_KEYS = ["score", "counts", "totals", "precisions", "bp", "sys_len", "ref_len"]

# metric, configuration, arguments, published values (rounded as published)
GOLDEN: list[tuple[str, str | None, dict[str, Any], dict[str, Any]]] = [
    ("accuracy", None, SIX, {"accuracy": 0.5}),
    ("accuracy", None, {**SIX, "normalize": False}, {"accuracy": 3.0}),
    ("accuracy", None, {**SIX, "sample_weight": [0.5, 2, 0.7, 0.5, 9, 0.4]}, {"accuracy": 0.8778625954198473}),
    ("f1", None, FIVE, {"f1": 0.5}),
    ("f1", None, {**FIVE, "pos_label": 0}, {"f1": 0.67}),
    ("f1", None, {**FIVE, "sample_weight": [0.9, 0.5, 3.9, 1.2, 0.3]}, {"f1": 0.35}),
    ("f1", None, {**THREE, "average": "macro"}, {"f1": 0.27}),
    ("f1", None, {**THREE, "average": "micro"}, {"f1": 0.33}),
    ("f1", None, {**THREE, "average": None}, {"f1": [0.8, 0.0, 0.0]}),
    ("matthews_correlation", None, MCC, {"matthews_correlation": 0.54}),
    ("matthews_correlation", None, {**MCC, "sample_weight": [0.5, 3, 1, 1, 1, 2]}, {"matthews_correlation": 0.1}),
    ("matthews_correlation", None, {**MCC, "sample_weight": [0.5, 1, 0, 0, 0, 1]}, {"matthews_correlation": -0.25}),
    ("pearsonr", None, {**NUMBERS, "return_pvalue": True}, {"pearsonr": -0.74, "p-value": 0.15}),
    ("spearmanr", None, {**NUMBERS, "return_pvalue": True}, {"spearmanr": -0.7, "spearmanr_pvalue": 0.19}),
    ("glue", "sst2", {"references": [0, 1], "predictions": [0, 1]}, {"accuracy": 1.0}),
    ("glue", "mrpc", {"references": [0, 1], "predictions": [0, 1]}, {"accuracy": 1.0, "f1": 1.0}),
    ("glue", "stsb", {"predictions": [*range(6)], "references": [*range(6)]}, {"pearson": 1.0, "spearmanr": 1.0}),
    ("glue", "cola", {"references": [0, 1], "predictions": [1, 1]}, {"matthews_correlation": 0.0}),
    (
        "bleu",
        None,
        KENOBI,
        {
            "bleu": 1.0,
            "precisions": [1.0, 1.0, 1.0, 1.0],
            "brevity_penalty": 1.0,
            "length_ratio": 1.1666666666666667,
            "translation_length": 7,
            "reference_length": 6,
        },
    ),
    (
        "bleu",
        None,
        {**KENOBI, "references": [["hello there general kenobi"], ["foo bar foobar"]]},
        {"bleu": 1.0, "length_ratio": 1.0, "translation_length": 7, "reference_length": 7},
    ),
    ("sacrebleu", None, KENOBI_TWICE, {"score": 100.0, "counts": [7, 5, 3, 1], "sys_len": 7, "ref_len": 7}),
    (
        "sacrebleu",
        None,
        MORPORK,
        {
            "score": 39.76353643835252,
            "counts": [6, 4, 2, 1],
            "totals": [10, 8, 6, 4],
            "precisions": [60.0, 50.0, 33.333333333333336, 25.0],
            "bp": 1.0,
            "sys_len": 10,
            "ref_len": 7,
        },
    ),
    ("chrf", None, CATS, {"score": 84.64214891738334, "char_order": 6, "word_order": 0, "beta": 2}),
    ("chrf", None, {**CATS, "word_order": 2}, {"score": 82.87263732906315, "word_order": 2}),
    ("chrf", None, {**CATS, "word_order": 2, "lowercase": True}, {"score": 92.12853119829202}),
    ("rouge", None, {**ANKH, "references": ANKH["predictions"]}, {"rouge1": 1.0, "rouge2": 1.0, "rougeLsum": 1.0}),
    # the README prints 0.5 and 0.25 here, the precision; the module returns F-scores, as its own text says
    ("rouge", None, {**ANKH, "use_aggregator": False}, {"rouge1": [2 / 3, 0.0]}),
    ("rouge", None, ANKH, {"rouge1": 0.333}),
    ("exact_match", None, AGENT, {"exact_match": 0.25}),
    ("exact_match", None, SENTENCES, {"exact_match": 0.33}),
    (
        "exact_match",
        None,
        {**AGENT, "regexes_to_ignore": ["the ", "yell"], "ignore_case": True, "ignore_punctuation": True},
        {"exact_match": 0.5},
    ),
    (
        "exact_match",
        None,
        {**AGENT, "regexes_to_ignore": ["the ", "yell", "YELL"], "ignore_case": True, "ignore_punctuation": True},
        {"exact_match": 0.75},
    ),
    (
        "exact_match",
        None,
        {
            **AGENT,
            "regexes_to_ignore": ["the ", "yell", "YELL"],
            "ignore_case": True,
            "ignore_punctuation": True,
            "ignore_numbers": True,
        },
        {"exact_match": 1.0},
    ),
]


def as_published(value: Any) -> Any:
    """A published number was rounded to the digits it has."""
    digits = max(len(repr(float(value)).partition(".")[2]), 1)
    return pytest.approx(value, abs=0.5001 * 10**-digits, rel=0)


@pytest.mark.parametrize(("name", "config", "arguments", "expected"), GOLDEN)
def test_value_is_the_published_one(
    name: str, config: str | None, arguments: dict[str, Any], expected: dict[str, Any]
) -> None:
    scores = load_metric(name, config).compute(**arguments)
    for key, value in expected.items():
        if isinstance(value, list):
            assert list(scores[key]) == pytest.approx(value)
        else:
            assert scores[key] == as_published(value), key


def test_results_have_the_published_keys() -> None:
    assert list(load_metric("sacrebleu").compute(**MORPORK)) == BLEU_KEYS
    assert list(load_metric("rouge").compute(**ANKH)) == ["rouge1", "rouge2", "rougeL", "rougeLsum"]
    assert list(load_metric("accuracy").compute(**SIX)) == ["accuracy"]
