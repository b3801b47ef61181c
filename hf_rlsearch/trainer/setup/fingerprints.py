"""Fingerprints what a search depends on and what has no readable form: data, weights, tokenizers, functions."""

import argparse
import dataclasses
import enum
import functools
import hashlib
import itertools
import json
import logging
import math
import re
import sys
import time
import types
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from hf_rlsearch._typing import Params
from hf_rlsearch.space.side_effects import is_array
from hf_rlsearch.trainer.session.arguments import hash_of, plain
from hf_rlsearch.trainer.session.compat import names_read_in_training
from hf_rlsearch.trainer.session.seeds_and_memory import preserve_random_state
from hf_rlsearch.trainer.session.shared_state import own_attributes

logger = logging.getLogger(__name__)

HASH = "#"
"""A text that begins with this is a hash."""

# Numbers of each tensor of a model that are hashed, spread over the tensor.
_N_NUMBERS = 1024
# Sets of at most so many rows are read whole. Of longer ones so many rows are read, spread over the set.
_N_ROWS, _N_OF_MANY = 5000, 1000
# Rows that are read twice: where they differ, the data set draws at random.
_N_TWICE = 16
# Expected seconds of reading rows from which on a line of the log says what takes so long.
_LONG = 3.0
# Containers within containers deeper than this are known by their class.
_DEEPEST = 20
# A table in memory or in a mapped file is hashed whole up to this size, at about a gigabyte a second.
_LARGEST_TABLE = 2**30
# Rows of a table that are hashed at a time, so that equal tables have equal pieces.
_PIECE = 2**16
# Arrays of at most so many numbers are settings, such as the weights of classes.
_MAX_SETTING = 1000
# Fields of a configuration that are longer than this are hashed, such as the names of a thousand classes.
_LONGEST_FIELD = 200


def model_fingerprint(model: Any) -> Params:
    """Returns facts of a model that has not been trained: its class, configuration, shapes, and samples of all weights.

    Weights that a script usually makes anew, a head on a pretrained model or an adapter in it, are hashed on their own:
    without a seed they differ each time the script runs.
    """
    if model is None:
        return {"class": "none"}
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    new = _new_weights(model)
    config, adapters = plain(getattr(model, "config", None)), plain(getattr(model, "peft_config", None))
    facts = {
        "class": type(model).__name__,
        "config": {key: _shortened(value) for key, value in config.items()} if isinstance(config, Mapping) else config,
    }
    if adapters is not None:
        facts["adapters"] = adapters
    if config is None:  # a plain module, whose text has what no tensor tells, such as the rate of its dropout
        facts["layers"] = HASH + hash_of(re.sub(r" at 0x[0-9a-f]+", "", repr(model)))
    return {
        **facts,
        "n_tensors": len(tensors),
        "shapes": HASH + hash_of({name: _shape(tensor) for name, tensor in tensors.items()}),
        "weights": _hash_tensors(tensor for name, tensor in sorted(tensors.items()) if name not in new),
        "new_weights": _hash_tensors(tensors[name] for name in sorted(new)),
    }


def weights_fingerprint(model: Any) -> str:
    """Returns a hash of samples of all weights and buffers of a model."""
    return _hash_tensors([*model.parameters(), *model.buffers()])


def data_fingerprint(data: Any) -> Any:
    """Returns facts of a data set: class, length, and a hash of its rows if reading them twice gives the same rows."""
    if data is None:
        return "none"
    if isinstance(data, dict) or (isinstance(data, Mapping) and not hasattr(data, "num_rows")):
        return {str(name): data_fingerprint(part) for name, part in data.items()}
    facts: Params = {"class": type(data).__name__}
    try:
        facts["rows"] = len(data)
    except TypeError:
        return {**facts, **_first_rows_of_stream(data)}
    table = getattr(getattr(data, "data", None), "table", None)
    if hasattr(table, "to_batches"):
        facts["table"] = _table_fingerprint(data, table)
    # Of a table that was hashed whole, a few rows show what its format and transform make of them.
    n_read = _N_TWICE if "table" in facts else facts["rows"] if facts["rows"] <= _N_ROWS else _N_OF_MANY
    with preserve_random_state():
        began = time.monotonic()
        first, second = (_hash_rows(data, facts["rows"], _N_TWICE) for _ in range(2))
        if first is None or first != second:
            return facts
        seconds = (time.monotonic() - began) / (2 * _N_TWICE) * n_read
        if seconds > _LONG:
            reads = f"{n_read:,} of {facts['rows']:,} rows are read, by which the search is recognised later"
            logger.info("%s, which takes about %.0f s.", reads, seconds)
        return {**facts, "content": _hash_rows(data, facts["rows"], n_read)}


def _first_rows_of_stream(data: Any) -> Params:
    """A hash of the first rows of a stream of ``datasets``; other data without a length may give each row but once."""
    if type(data).__module__.partition(".")[0] != "datasets":
        return {}
    with preserve_random_state(), suppress(Exception):  # without a network the training will tell why
        first, second = (hash_of([_value_facts(row) for row in itertools.islice(data, _N_TWICE)]) for _ in range(2))
        return {"first_rows": HASH + first} if first == second else {}
    return {}


def tokenizer_fingerprint(tokenizer: Any) -> Any:
    """Returns facts of a tokenizer or another processor; how it was used before has no influence."""
    if tokenizer is None:
        return "none"
    facts: Params = {"class": type(tokenizer).__name__}
    backend: Any = getattr(tokenizer, "backend_tokenizer", None)
    if hasattr(backend, "to_str"):
        # A call with truncation or padding leaves these settings in the tokenizer.
        rules = {k: v for k, v in json.loads(backend.to_str()).items() if k not in ("truncation", "padding")}
        facts["rules"] = HASH + hash_of(rules)
    elif callable(getattr(tokenizer, "get_vocab", None)):
        facts["rules"] = HASH + hash_of(tokenizer.get_vocab())
    elif callable(getattr(tokenizer, "to_dict", None)):
        facts["rules"] = HASH + hash_of(tokenizer.to_dict())
    for name in ("model_max_length", "padding_side", "truncation_side", "special_tokens_map", "chat_template"):
        if (value := getattr(tokenizer, name, None)) is not None:
            facts[name] = _shortened(plain(value))
    for name in ("tokenizer", "image_processor", "feature_extractor"):  # parts of a processor of several kinds of data
        if (part := getattr(tokenizer, name, None)) is not None:
            facts[name] = tokenizer_fingerprint(part)
    return facts


def function_fingerprint(function: Any, *, values: bool = True) -> str:
    """Returns a hash of the code of a function or of an object that can be called, and of what the code refers to.

    Args:
        function: Functions and classes of installed packages are known by their names.
        values: False hashes the code alone.
    """
    return "none" if function is None else HASH + hash_of(_function_facts(function, depth=3 if values else 0))


def trainer_fingerprint(trainer: Any, searched: Iterable[str] = ()) -> Params:
    """Returns values that a subclass of the Trainer trains with, and the constants of callbacks that stop trainings.

    Lists are left out: most are records, which grow. So are objects, and values that no method reads in a training,
    such as the time of the start, and those that the search changes, which are given by names such as "trainer.gamma".
    """
    left_out = {re.split(r"[.\[]", name)[1] for name in searched if name.startswith("trainer.")}
    names = names_read_in_training(trainer) - left_out
    own = own_attributes(trainer).items()
    values = {name: _value_facts(value) for name, value in own if name in names and _is_setting(value)}
    handler = getattr(trainer, "callback_handler", None)
    stops = [each.state()["args"] for each in getattr(handler, "callbacks", ()) if _is_early_stopping(each)]
    return {"trainer": values, **({"early_stopping": stops} if stops else {})}


def scoring_fingerprint(trainer: Any) -> Params:
    """Returns hashes of the code that turns predictions into metrics, by the names of the Trainer's arguments."""
    functions = {name: getattr(trainer, name, None) for name in ("compute_metrics", "preprocess_logits_for_metrics")}
    return {name: function_fingerprint(function, values=False) for name, function in functions.items()}


def steady_fingerprint(function: Any, before: str) -> str:
    """Returns the fingerprint of a function that was called since it had the one before.

    Where the function counts or collects something, only its code tells that it is the same.
    """
    after = function_fingerprint(function)
    return after if after == before else function_fingerprint(function, values=False)


def _new_weights(model: Any) -> set[str]:
    """Names of parameters that a script usually makes anew: adapters in a frozen model, a head on a pretrained one."""
    named = dict(model.named_parameters())
    trained = {name for name, parameter in named.items() if parameter.requires_grad}
    if len(trained) < len(named):
        return trained
    prefix = f"{getattr(model, 'base_model_prefix', '') or ''}."
    outside = {name for name in named if not name.startswith(prefix)}
    return outside if len(outside) < len(named) else set()


def _hash_tensors(tensors: Iterable[Any]) -> str:
    """A hash of numbers that are spread over each tensor; sharded tensors and those without data are left out."""
    found = hashlib.sha256()
    for tensor in tensors:
        if tensor.numel() and tensor.device.type != "meta" and not hasattr(tensor, "to_local"):
            with suppress(NotImplementedError, RuntimeError):  # not every quantized tensor can be read in part
                numbers = tensor.detach().reshape(-1)[_spread(tensor.numel(), _N_NUMBERS)].tolist()
                found.update(json.dumps(numbers, default=repr).encode())
    return HASH + found.hexdigest()[:16]


def _shape(tensor: Any) -> list[int]:
    return list(getattr(tensor, "ds_shape", tensor.shape))  # DeepSpeed leaves an empty tensor on each rank


def _table_fingerprint(data: Any, table: Any) -> str:
    """A hash of a table and of the rows that a selection takes from it; the data set's own one for a large table."""
    indices: Any = getattr(getattr(data, "_indices", None), "table", None)
    if table.nbytes > _LARGEST_TABLE:
        return HASH + str(data._fingerprint)
    found = hashlib.sha256()
    for part in (table, indices):
        for start in range(0, 0 if part is None else part.num_rows, _PIECE):
            # Equal rows are equal bytes in one piece, in whatever chunks the table holds them.
            for batch in part.slice(start, _PIECE).combine_chunks().to_batches():
                found.update(batch.serialize())
    return HASH + found.hexdigest()[:16]


def _hash_rows(data: Any, n: int, n_read: int) -> str | None:
    """A hash of rows that are spread over a data set; None if a row cannot be read by its number."""
    found = hashlib.sha256()
    try:
        for i in _spread(n, n_read):
            found.update(json.dumps(_value_facts(data[i]), sort_keys=True, default=repr).encode())
    except Exception:
        return None
    return HASH + found.hexdigest()[:16]


def _spread(n: int, n_wanted: int) -> list[int]:
    """Up to n_wanted numbers below n, from the first to the last at equal distances."""
    k = min(n, n_wanted)
    return [i * (n - 1) // max(1, k - 1) for i in range(k)]


def _shortened(value: Any) -> Any:
    return value if len(json.dumps(value)) <= _LONGEST_FIELD else HASH + hash_of(value)


def _function_facts(function: Any, depth: int) -> Any:
    """Plain data about a function or an object that can be called; at depth 0 about its code alone."""
    if isinstance(function, functools.partial):
        inner = [function.func, *function.args, function.keywords]
        return [_function_facts(function.func, depth), [_value_facts(value, depth) for value in inner if depth]]
    if isinstance(function, types.MethodType):
        return [_function_facts(function.__func__, depth), _object_facts(function.__self__, depth)]
    if not isinstance(function, types.FunctionType):
        return _object_facts(function, depth)
    if _is_installed(function):
        return f"{function.__module__}.{function.__qualname__}"
    code = _code_facts(function.__code__)
    if depth == 0:
        return code
    cells, names = [_contents(cell) for cell in function.__closure__ or ()], _names_in(function.__code__)
    named = [function.__globals__.get(name) for name in names]
    referred = [*cells, *(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values(), *named]
    return [code, [_value_facts(_parts_in_use(value, names), depth - 1) for value in referred]]


def _is_setting(value: Any, depth: int = 3) -> bool:
    """Whether a value is a number, a text, a small array, or a tuple or dict of these."""
    if isinstance(value, (tuple, dict)):
        inner = value.values() if isinstance(value, dict) else value
        return depth > 0 and all(_is_setting(each, depth - 1) for each in inner)
    is_small = is_array(value) and math.prod(value.shape) <= _MAX_SETTING
    return value is None or isinstance(value, (bool, int, float, str)) or is_small


def _is_early_stopping(callback: Any) -> bool:
    from transformers import EarlyStoppingCallback

    return isinstance(callback, EarlyStoppingCallback)


def _names_in(code: types.CodeType) -> list[str]:
    """The names of globals and attributes in code, and in that of comprehensions and functions within it."""
    inner = [name for each in code.co_consts if isinstance(each, types.CodeType) for name in _names_in(each)]
    return [*code.co_names, *inner]


def _parts_in_use(value: Any, names: Sequence[str]) -> Any:
    """Of the options of a script, those that a function names: the others may change from start to start."""
    is_options = isinstance(value, argparse.Namespace | types.SimpleNamespace) or dataclasses.is_dataclass(value)
    if not is_options or isinstance(value, type):
        return value
    fields = [field.name for field in dataclasses.fields(value)] if dataclasses.is_dataclass(value) else []
    known = {*getattr(value, "__dict__", {}), *fields}  # a dataclass may have slots
    return {name: getattr(value, name) for name in names if name in known and hasattr(value, name)}


def _object_facts(value: Any, depth: int) -> Any:
    """Plain data about an object: its class, code of methods that no installed package defines, and its attributes."""
    cls = value if isinstance(value, type) else type(value)
    own = [each for each in cls.__mro__ if each is not object and not _is_installed(each)]
    methods = [method for each in own for method in vars(each).values() if isinstance(method, types.FunctionType)]
    attributes = {} if isinstance(value, type) or not depth else getattr(value, "__dict__", {})
    return [
        f"{cls.__module__}.{cls.__qualname__}",
        [_code_facts(method.__code__) for method in methods],
        {name: _value_facts(each) for name, each in sorted(attributes.items())},
    ]


def _is_installed(thing: Any) -> bool:
    """Whether a function or class belongs to an installed package."""
    file = getattr(sys.modules.get(thing.__module__), "__file__", None) or ""
    return "site-packages" in file or "dist-packages" in file


def _code_facts(code: types.CodeType) -> Any:
    return [code.co_code.hex(), [_constant_facts(constant) for constant in code.co_consts], list(code.co_names)]


def _constant_facts(constant: Any) -> Any:
    if isinstance(constant, types.CodeType):
        return _code_facts(constant)
    # The order of a set differs from process to process.
    return sorted(map(repr, constant)) if isinstance(constant, frozenset) else repr(constant)


def _value_facts(value: Any, depth: int = 0, level: int = 0) -> Any:
    """Returns a value as plain data: arrays and images in full, functions up to a depth of calls, objects by class."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (list, tuple, set, frozenset)) and level < _DEEPEST:  # deeper, it may hold itself
        items = [_value_facts(item, depth, level + 1) for item in value]
        # The order of a set differs from process to process.
        return items if isinstance(value, (list, tuple)) else sorted(items, key=repr)
    if isinstance(value, Mapping) and level < _DEEPEST:
        return {str(key): _value_facts(item, depth, level + 1) for key, item in value.items()}
    if depth > 0 and isinstance(value, (types.FunctionType, types.MethodType, functools.partial)):
        return _function_facts(value, depth)
    if isinstance(value, (type, enum.Enum)):
        return value.__qualname__ if isinstance(value, type) else str(value)
    content = _bytes_of(value)
    return type(value).__name__ if content is None else hashlib.sha256(content).hexdigest()


def _bytes_of(value: Any) -> bytes | None:
    """The content of an array, a tensor or an image; None for other objects, and for tensors that numpy lacks."""
    import torch

    if isinstance(value, torch.Tensor):
        try:
            value = value.detach().cpu()
            value = (value.float() if value.dtype.itemsize == 2 else value).numpy()  # numpy lacks bfloat16
        except (TypeError, RuntimeError, NotImplementedError):
            return None  # sparse, quantised, without data
    if callable(getattr(type(value), "tobytes", None)):
        return f"{getattr(value, 'shape', getattr(value, 'size', ''))}".encode() + bytes(value.tobytes())
    return value if isinstance(value, bytes) else None


def _contents(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        return None  # a variable that is assigned later
