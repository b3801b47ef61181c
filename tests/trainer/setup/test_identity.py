"""Fingerprints change with everything that a search depends on, and with nothing else."""

import argparse
import enum
import functools
import random
import time
import types
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from torch import Tensor
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    DataCollatorWithPadding,
    TrainingArguments,
)

from hf_rlsearch import embedded
from hf_rlsearch.trainer.session.arguments import FrozenArguments, plain
from hf_rlsearch.trainer.session.compat import optimizer_function
from hf_rlsearch.trainer.setup import fingerprints
from hf_rlsearch.trainer.setup.fingerprints import (
    data_fingerprint,
    function_fingerprint,
    model_fingerprint,
    steady_fingerprint,
    tokenizer_fingerprint,
)
from hf_rlsearch.trainer.setup.identity import decisive, diff, listed

Metric = Callable[[dict[str, float]], float]


def scaled(factor: float) -> Metric:
    return lambda metrics: factor * metrics["eval_accuracy"]


def weighted(*weights: float) -> Metric:
    tensor = torch.tensor(weights)
    return lambda metrics: float(tensor.sum()) * metrics["eval_f1"]


class Weighted:
    def __init__(self, weight: float) -> None:
        self.weight = weight

    def __call__(self, metrics: dict[str, float]) -> float:
        return self.weight * metrics["eval_f1"]


def power(metrics: dict[str, float], exponent: int) -> float:
    return metrics["eval_f1"] ** exponent


def test_differences_are_named_by_their_path() -> None:
    old = {"model": "A", "space": {"x": 1, "y": [2]}, "same": 0}
    assert diff(old, {"model": "A", "space": {"x": 3, "y": [2]}, "same": 0}) == ["space.x: 1 -> 3"]
    assert diff({}, {"new": None, "newer": 1}) == ["newer: null -> 1"]
    assert diff({"collator": "#a"}, {"collator": "#b"}) == ["collator: other content"]


@pytest.mark.parametrize(
    ("before", "after"), [("A" * 100 + "B", "A" * 100 + "C"), ("A" * 100, "A" * 99), ("B", "C" * 99)]
)
def test_a_long_difference_shows_the_part_that_differs(before: str, after: str) -> None:
    (line,) = diff({"x": f"{before}{'Z' * 200}"}, {"x": f"{after}{'Z' * 200}"})
    old, new = line.removeprefix("x: ").split(" -> ")
    assert old != new
    assert max(len(old), len(new)) <= 66
    assert ("B" in old) == ("B" in before)


def test_only_a_few_differences_are_listed() -> None:
    assert listed(["a", "b"]) == "a; b"
    assert listed(["a", "b", "c", "d", "e"]) == "a; b; c; and 2 more"


@pytest.mark.parametrize(
    ("function", "same", "other"),
    [
        (scaled(2.0), scaled(2.0), scaled(3.0)),
        (Weighted(0.5), Weighted(0.5), Weighted(0.25)),
        (
            functools.partial(power, exponent=2),
            functools.partial(power, exponent=2),
            functools.partial(power, exponent=3),
        ),
        (lambda m: m["a"], lambda m: m["a"], lambda m: m["b"]),
        (lambda m: Tensor(m), lambda m: Tensor(m), lambda m: Weighted(m)),
        (weighted(0.5, 1.0), weighted(0.5, 1.0), weighted(0.5, 2.0)),
        (lambda m: torch.tensor(m["a"]), lambda m: torch.tensor(m["a"]), lambda m: torch.tensor(m["b"])),
        (lambda m: m["a"] in {1, 2, 3}, lambda m: m["a"] in {3, 2, 1}, lambda m: m["a"] in {1, 2, 4}),
    ],
)
def test_functions_differ_by_code_and_values(function: Any, same: Any, other: Any) -> None:
    assert function_fingerprint(function) == function_fingerprint(same) != function_fingerprint(other)


class Kind(enum.Enum):
    MICRO, MACRO = 1, 2


def reads(**variables: Any) -> Metric:
    """A function in a script with these variables."""

    def score(metrics: dict[str, float]) -> float:
        best = max(weight * metrics[name] for name in names for _ in [kind])  # type: ignore[name-defined]  # noqa: F821
        return best - args.penalty  # type: ignore[name-defined]  # noqa: F821

    given = {"weight": 1.0, "names": {"f1", "accuracy"}, "kind": Kind.MICRO, "args": argparse.Namespace(penalty=0.5)}
    return types.FunctionType(score.__code__, {**given, **variables})


@pytest.mark.parametrize(
    "changed",
    [{"weight": 2.0}, {"names": {"f1", "mcc"}}, {"kind": Kind.MACRO}, {"args": argparse.Namespace(penalty=0.6)}],
)
def test_variables_that_a_function_names_anywhere_count(changed: dict[str, Any]) -> None:
    assert function_fingerprint(reads()) == function_fingerprint(reads(names={"accuracy", "f1"}))
    assert function_fingerprint(reads()) != function_fingerprint(reads(**changed))


def test_options_that_a_function_does_not_name_do_not_count() -> None:
    """A script that is continued with more trials is the same script."""
    options = argparse.Namespace(penalty=0.5, n_trials=20)
    assert function_fingerprint(reads(args=options)) == function_fingerprint(reads())


@dataclass(slots=True)
class Options:
    penalty: float
    n_trials: int = 8


def test_options_without_a_dict_count() -> None:
    fingerprint = [function_fingerprint(reads(args=Options(*each))) for each in ((0.5,), (0.5, 20), (0.6,))]
    assert fingerprint[0] == fingerprint[1] != fingerprint[2]


def test_the_names_of_arguments_count() -> None:
    one, other = functools.partial(power, exponent=2), functools.partial(power, metrics=2)
    assert function_fingerprint(one) != function_fingerprint(other)


def test_the_users_optimizer_counts_without_its_learning_rate() -> None:
    def of(cls: type, **settings: Any) -> str:
        return function_fingerprint(optimizer_function(types.SimpleNamespace(optimizer_cls_and_kwargs=(cls, settings))))

    given = of(torch.optim.SGD, lr=0.1, momentum=0.9)
    assert of(torch.optim.SGD, momentum=0.9, lr=0.5) == given
    assert len({given, of(torch.optim.SGD, lr=0.1, momentum=0.5), of(torch.optim.RMSprop, lr=0.1, momentum=0.9)}) == 3
    assert optimizer_function(types.SimpleNamespace(optimizer_cls_and_kwargs=None)) is None


def test_a_set_is_plain_in_one_order() -> None:
    assert plain({"modules": set("gfedcba")}) == {"modules": list("abcdefg")}


def test_a_function_that_counts_is_known_by_its_code() -> None:
    calls: list[int] = []

    def counting() -> None:
        calls.append(1)

    before = function_fingerprint(counting)
    assert steady_fingerprint(counting, before) == before
    counting()
    first, before = steady_fingerprint(counting, before), function_fingerprint(counting)
    counting()
    assert steady_fingerprint(counting, before) == first != before


class Collator:
    def __init__(self, limit: int) -> None:
        self.limit = limit

    def __call__(self, rows: list[Any]) -> Any:
        return rows[: self.limit]


class OtherCollator(Collator):
    def __call__(self, rows: list[Any]) -> Any:
        return rows[1 : self.limit]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(embedded.path("bert-tiny"))


def test_collators_differ_by_code_and_attributes(tokenizer: Any) -> None:
    padding = DataCollatorWithPadding(tokenizer)
    others = [Collator(3), OtherCollator(2), Collator(2).__call__, DataCollatorWithPadding(tokenizer, max_length=8)]
    prints = [function_fingerprint(each) for each in (Collator(2), padding, *others)]
    assert len({*prints}) == len(prints)
    assert function_fingerprint(DataCollatorWithPadding(tokenizer)) == function_fingerprint(padding)
    assert function_fingerprint(None) == "none"


def test_tokenizers_differ_by_what_they_do_and_not_by_what_they_did(tokenizer: Any) -> None:
    before = tokenizer_fingerprint(tokenizer)
    tokenizer(["one", "two words"], truncation=True, max_length=4, padding=True)
    assert tokenizer_fingerprint(tokenizer) == before
    other = AutoTokenizer.from_pretrained(embedded.path("bert-tiny"), padding_side="left")
    assert diff(before, tokenizer_fingerprint(other)) == ['padding_side: "right" -> "left"']
    other = AutoTokenizer.from_pretrained(embedded.path("bert-tiny"))
    other.add_tokens(["quuxify"])
    assert diff(before, tokenizer_fingerprint(other)) == ["rules: other content"]


def rows_of(n: int) -> list[dict[str, Any]]:
    return [{"x": i, "label": torch.tensor(i % 2)} for i in range(n)]


def test_data_differ_by_kind_length_and_rows() -> None:
    rows = rows_of(100)
    assert data_fingerprint(rows) == data_fingerprint([dict(row) for row in rows])
    assert data_fingerprint(rows) != data_fingerprint(rows[::-1])
    assert diff(data_fingerprint(rows), data_fingerprint(rows[:99]))[-1] == "rows: 100 -> 99"
    assert data_fingerprint({"a": rows, "b": None}) == {"a": data_fingerprint(rows), "b": "none"}


class SlowRows(list[dict[str, Any]]):
    """Rows that take 2 ms each."""

    def __getitem__(self, i: Any) -> Any:
        time.sleep(0.002)
        return super().__getitem__(i)


def test_reading_rows_for_long_is_said(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fingerprints, "_LONG", 0.3)
    with caplog.at_level("INFO"):
        data_fingerprint(SlowRows(rows_of(20)))
        assert not caplog.text
        data_fingerprint(SlowRows(rows_of(200)))
    assert "200 of 200 rows are read, by which the search is recognised later, which takes about " in caplog.text


@pytest.mark.parametrize("kind", [list, datasets.Dataset.from_list])
@pytest.mark.parametrize("place", [0, 77, 2998])
def test_one_changed_row_is_noticed(kind: Callable[[list[Any]], Any], place: int) -> None:
    rows = [{"x": i, "text": f"row {i}", "values": [i, i + 1]} for i in range(3000)]
    changed = [*rows]
    changed[place] = {**rows[place], "values": [place, 0]}
    assert data_fingerprint(kind(rows)) == data_fingerprint(kind(rows))
    assert data_fingerprint(kind(rows)) != data_fingerprint(kind(changed))


def test_the_hash_of_a_table_does_not_depend_on_its_chunks(tmp_path: Any) -> None:
    rows = [{"x": i, "text": f"row {i}" if i % 3 else None, "values": [i] * (i % 5)} for i in range(200)]
    whole = datasets.Dataset.from_list(rows)
    parts = datasets.concatenate_datasets([datasets.Dataset.from_list(rows[i : i + 50]) for i in range(0, 200, 50)])
    whole.save_to_disk(tmp_path / "data")
    stored = datasets.load_from_disk(tmp_path / "data")
    assert parts.data.column(0).num_chunks > 1
    assert data_fingerprint(whole) == data_fingerprint(parts) == data_fingerprint(stored)
    assert data_fingerprint(whole.shuffle(seed=1)) != data_fingerprint(whole.shuffle(seed=2))


def test_a_large_table_is_known_by_the_fingerprint_of_its_data_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hf_rlsearch.trainer.setup.fingerprints._LARGEST_TABLE", 10)
    data = datasets.Dataset.from_list(rows_of(50))
    assert data_fingerprint(data)["table"] == f"#{data._fingerprint}"


def test_images_and_arrays_are_read() -> None:
    from PIL import Image

    black, dark = Image.new("L", (4, 4)), Image.new("L", (4, 4))
    dark.putpixel((3, 3), 1)
    assert data_fingerprint([{"image": black}]) != data_fingerprint([{"image": dark}])
    assert data_fingerprint([{"raw": b"a"}]) != data_fingerprint([{"raw": b"b"}])
    assert data_fingerprint([{"x": torch.ones(3, dtype=torch.bfloat16)}]) != data_fingerprint([{"x": torch.zeros(3)}])


def test_a_stream_is_known_by_its_first_rows() -> None:
    def stream(x: int) -> Any:
        return datasets.Dataset.from_list([{"x": x}, {"x": 0}]).to_iterable_dataset()

    assert data_fingerprint(stream(1)) == data_fingerprint(stream(1)) != data_fingerprint(stream(2))


def test_a_stream_that_may_be_read_once_is_not_read() -> None:
    class Once(torch.utils.data.IterableDataset):  # type: ignore[type-arg]
        def __iter__(self) -> Any:
            raise AssertionError

    assert data_fingerprint(Once()) == {"class": "Once"}


def test_data_that_change_with_each_reading_have_no_hash() -> None:
    class Augmented:
        def __len__(self) -> int:
            return 3

        def __getitem__(self, index: int) -> float:
            return random.SystemRandom().random()

    assert data_fingerprint(Augmented()) == {"class": "Augmented", "rows": 3}
    assert data_fingerprint(row for row in ()) == {"class": "generator"}


def model(**options: Any) -> BertForSequenceClassification:
    size = {
        "hidden_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 8,
        "vocab_size": 16,
    }
    torch.manual_seed(0)
    return BertForSequenceClassification(BertConfig(**{**size, **options}))


def test_models_differ_by_configuration_and_shapes() -> None:
    assert model_fingerprint(model()) == model_fingerprint(model())
    lines = diff(model_fingerprint(model()), model_fingerprint(model(hidden_size=16)))
    assert "config.hidden_size: 8 -> 16" in lines
    assert diff(model_fingerprint(model()), model_fingerprint(model(hidden_dropout_prob=0.5))) == [
        "config.hidden_dropout_prob: 0.1 -> 0.5"
    ]


def test_models_differ_by_each_of_their_tensors() -> None:
    given = model_fingerprint(model())
    for name in dict(model().bert.named_parameters()):
        changed = model()
        with torch.no_grad():
            changed.bert.get_parameter(name).view(-1)[-1] += 1e-3
        assert diff(given, model_fingerprint(changed)) == ["weights: other content"], name


def test_a_head_without_a_seed_does_not_make_it_another_search() -> None:
    changed = model()
    with torch.no_grad():
        changed.classifier.weight.normal_()
    lines = diff({"model": model_fingerprint(model())}, {"model": model_fingerprint(changed)})
    assert lines == ["model.new_weights: other content"]
    assert decisive([*lines, "model.weights: other content"]) == ["model.weights: other content"]


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
def test_an_adapter_without_a_seed_does_not_make_it_another_search() -> None:
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["query"])
    first, second = (peft.get_peft_model(model(), config) for _ in range(2))
    torch.nn.init.ones_(second.base_model.model.bert.encoder.layer[0].attention.self.query.lora_A["default"].weight)
    assert diff(model_fingerprint(first), model_fingerprint(second)) == ["new_weights: other content"]


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
def test_adapters_differ_by_settings_that_no_tensor_has() -> None:
    peft = pytest.importorskip("peft")

    def adapted(alpha: int) -> Any:
        modules = ["query", "key", "value"]
        return peft.get_peft_model(model(), peft.LoraConfig(r=2, lora_alpha=alpha, target_modules=modules))

    lines = diff(model_fingerprint(adapted(8)), model_fingerprint(adapted(16)))
    assert [line for line in lines if "new_weights" not in line] == ["adapters.default.lora_alpha: 8 -> 16"]


def test_plain_modules_differ_by_settings_that_no_tensor_has() -> None:
    def module(dropout: float) -> torch.nn.Module:
        torch.manual_seed(0)
        return torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Dropout(dropout))

    assert model_fingerprint(module(0.1)) == model_fingerprint(module(0.1))
    assert diff(model_fingerprint(module(0.1)), model_fingerprint(module(0.3))) == ["layers: other content"]


def test_weights_that_cannot_be_read_are_left_out() -> None:
    with torch.device("meta"):
        empty = model()
    assert model_fingerprint(empty)["shapes"] == model_fingerprint(model())["shapes"]
    assert model_fingerprint(None) == {"class": "none"}
    plain = torch.nn.Linear(2, 2)
    assert model_fingerprint(plain)["new_weights"] == model_fingerprint(torch.nn.ReLU())["new_weights"]


class OddArguments(TrainingArguments):
    """Its `__post_init__` is no plain function."""

    __post_init__ = functools.partialmethod(TrainingArguments.__post_init__)


@pytest.mark.parametrize("cls", [TrainingArguments, OddArguments])
def test_what_a_script_puts_beside_the_fields_tells_no_searches_apart(cls: Any, tmp_path: Path) -> None:
    made = [cls(output_dir=str(tmp_path)) for _ in range(2)]
    made[1].run_id = "2026-11-30 12:00"
    plain, named = map(FrozenArguments, made)
    assert named.identity(()) == plain.identity(())
    assert named.with_values({"run_id": "other"}).run_id == "other"
