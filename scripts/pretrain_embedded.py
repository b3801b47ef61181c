"""Makes what ships in hf_rlsearch/embedded: the docstrings of the data sets, a tiny BERT and a tiny GPT-2.

    python scripts/pretrain_embedded.py --docstrings
    python scripts/pretrain_embedded.py --checkpoint bert-tiny
    python scripts/pretrain_embedded.py --checkpoint gpt2-tiny

The text is what every Python installation carries: the docstrings of its standard library. The data sets are made from
the short ones. The checkpoints are trained on all docstrings except the fifth that the data sets keep for validation,
and on the topics of ``help()``. Each takes about ten minutes on one CPU core; same
seed, Python version and torch version, same weights. Weights are stored in half precision, the configuration makes
transformers compute in single precision.
"""

import ast
import gzip
import io
import json
import math
import os
import platform
import sysconfig
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import torch
import transformers
from datasets import Dataset
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    BertConfig,
    BertForMaskedLM,
    DataCollatorForLanguageModeling,
    GPT2Config,
    GPT2LMHeadModel,
    HfArgumentParser,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Trainer,
    TrainingArguments,
)

from hf_rlsearch import embedded
from hf_rlsearch.embedded import held_out, sentences

# Left out: tests, things that Linux distributions often package apart, and modules that newer versions removed.
LEFT_OUT = {"site-packages", "dist-packages", "test", "tests", "idlelib", "tkinter", "turtledemo", "ensurepip"} | {
    "distutils",
    "lib2to3",
    "pydoc_data",
    "__pycache__",
}
LONGEST_DOCSTRING = 300  # characters
# Topic -> the modules that are about it.
MODULES: dict[str, str] = {
    "internet": "email http urllib xmlrpc smtplib imaplib ftplib poplib socket socketserver ssl wsgiref mailbox "
    "mimetypes ipaddress webbrowser uuid netrc",
    "concurrency": "asyncio threading multiprocessing concurrent queue subprocess selectors sched",
    "files": "pathlib os posixpath ntpath genericpath shutil tempfile zipfile tarfile gzip bz2 lzma glob fnmatch "
    "fileinput _pyio io shelve dbm filecmp stat linecache",
    "debugging": "unittest doctest pdb bdb traceback timeit logging warnings profile cProfile pstats trace tracemalloc",
    "language": "importlib inspect typing ast dis symtable tokenize enum functools dataclasses pkgutil pyclbr "
    "zipimport abc types collections _collections_abc weakref operator copy contextlib codeop runpy",
    "numbers": "_pydecimal decimal statistics fractions random datetime _pydatetime calendar numbers _strptime heapq "
    "bisect graphlib colorsys turtle zoneinfo",
}


@dataclass
class Args:
    """What to make, and how long to train a checkpoint."""

    docstrings: bool = field(default=False, metadata={"help": "write docstrings.jsonl.gz"})
    checkpoint: str | None = field(
        default=None, metadata={"help": "train this checkpoint", "choices": list(embedded.CHECKPOINTS)}
    )
    output: str | None = field(default=None, metadata={"help": "folder to write; default: in the package"})
    steps: int = field(default=4000, metadata={"help": "training steps"})
    batch_size: int = field(default=32, metadata={"help": "blocks per training step"})
    learning_rate: float = field(default=2e-3, metadata={"help": "peak of the one-cycle schedule"})
    vocabulary: int = field(default=2048, metadata={"help": "tokens of the tokenizer"})
    seed: int = field(default=0, metadata={"help": "seed of weights, masks and order"})


def source_files(root: Path) -> list[Path]:
    """The files of the standard library, sorted; folders that are left out are not even read, as they can be huge."""
    found = []
    for folder, below, names in os.walk(root):
        below[:] = [name for name in below if name not in LEFT_OUT]
        found += [Path(folder) / name for name in names if name.endswith(".py")]
    return sorted(found)


def standard_docstrings() -> Iterator[tuple[str, str]]:
    """Yields (top-level module, docstring) of the running Python's standard library, parsed but never imported."""
    root = Path(sysconfig.get_path("stdlib"))
    for path in source_files(root):
        module = path.relative_to(root).parts[0].removesuffix(".py")
        try:
            tree = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError, OSError):
            continue  # such as files with syntax errors on purpose
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                text = ast.get_docstring(node)
                if text:
                    yield module, text


def write_docstrings(path: Path) -> None:
    """Writes what the data sets are made from: a line per topic, the same bytes each time with one Python version."""
    topic_of = {module: topic for topic, modules in MODULES.items() for module in modules.split()}
    found: dict[str | None, dict[str, None]] = {}
    for module, text in standard_docstrings():
        topic = topic_of.get(module)
        is_used = len(text.split()) >= 8 or (topic is not None and sentences(text))
        if is_used and len(text) <= LONGEST_DOCSTRING:
            found.setdefault(topic, {})[text] = None
    packed = io.BytesIO()
    with gzip.GzipFile(filename="", mode="wb", fileobj=packed, mtime=0) as file:
        for topic, documents in found.items():
            file.write((json.dumps({"topic": topic, "docstrings": list(documents)}) + "\n").encode())
    path.write_bytes(packed.getvalue())
    print(f"{sum(map(len, found.values())):,} docstrings, {path.stat().st_size / 1000:.0f} kB; written to {path}")


def texts(*, validation: bool) -> list[str]:
    """Returns the documents to train on, or those that are kept for validation."""
    documents = list(dict.fromkeys(text for _, text in standard_docstrings()))
    chosen = [text for text in documents if held_out(text) == validation]
    return chosen if validation else [*chosen, *topics.values()]


def bert_tokenizer(documents: list[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """Trains a lower-case WordPiece tokenizer with BERT's special tokens."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocabulary, special_tokens=special, limit_alphabet=100, show_progress=False
    )
    tokenizer.train_from_iterator(documents, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), special, strict=True))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=128, **names)


def gpt2_tokenizer(documents: list[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """Trains a byte-level BPE tokenizer with GPT-2's one special token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    end = "<|endoftext|>"
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=[end], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(documents, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=128, bos_token=end, eos_token=end, unk_token=end, pad_token=end
    )


def bert(tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    """Builds the masked language model: 3 layers, width 96, about half a million parameters."""
    return BertForMaskedLM(
        BertConfig(
            vocab_size=len(tokenizer),
            hidden_size=96,
            num_hidden_layers=3,
            num_attention_heads=4,
            intermediate_size=384,
            max_position_embeddings=128,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def gpt2(tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    """Builds the causal language model: 3 layers, width 96, about half a million parameters."""
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=len(tokenizer),
            n_embd=96,
            n_layer=3,
            n_head=4,
            n_positions=128,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def blocks(documents: list[str], tokenizer: PreTrainedTokenizerFast, length: int = 64) -> Dataset:
    """Joins the tokenized documents and cuts them into rows of ``length`` tokens."""
    encoded = tokenizer(documents, add_special_tokens=False)["input_ids"]
    end = tokenizer.sep_token_id if tokenizer.sep_token_id is not None else tokenizer.eos_token_id
    stream = [token for document in encoded for token in [*document, end]]
    start = [tokenizer.cls_token_id] if tokenizer.cls_token_id is not None else []
    width = length - len(start)
    rows = [start + stream[at : at + width] for at in range(0, len(stream) - width + 1, width)]
    return Dataset.from_dict({"input_ids": rows, "attention_mask": [[1] * length] * len(rows)})


def train(args: Args, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    """Trains the model in place and returns numbers for the card."""
    data = {split: blocks(texts(validation=split == "validation"), tokenizer) for split in ("train", "validation")}
    arguments = TrainingArguments(
        output_dir="unused",
        max_steps=args.steps,
        per_device_train_batch_size=args.batch_size,
        per_device_eval_batch_size=64,
        learning_rate=args.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=args.steps // 20,
        weight_decay=0.01,
        seed=args.seed,
        save_strategy="no",
        logging_steps=max(1, args.steps // 40),
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
    )
    is_masked = tokenizer.mask_token is not None
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=data["train"],
        eval_dataset=data["validation"],
        data_collator=DataCollatorForLanguageModeling(
            tokenizer, mlm=is_masked, mlm_probability=0.15 if is_masked else 0
        ),
    )
    started = time.time()
    trainer.train()
    seconds = time.time() - started
    transformers.set_seed(args.seed)  # so that the same tokens are masked whatever came before
    return {"eval_loss": trainer.evaluate()["eval_loss"], "seconds": seconds, "rows": len(data["train"])}


CARD = """---
license: apache-2.0
language: en
library_name: transformers
---
# {checkpoint}

A {kind} with {parameters:,} parameters ({layers} layers, width {width}, {vocabulary:,} tokens, 128 positions), for
demonstrations and tests: small enough to be trained in seconds on a CPU, and still better when its hyperparameters are
chosen well. It knows nothing but Python's documentation; do not use it for anything else.

- Made by: `python scripts/pretrain_embedded.py --checkpoint {checkpoint} --steps {steps} --batch_size {batch_size}
  --learning_rate {learning_rate} --vocabulary {vocabulary} --seed {seed}`
- Text: docstrings of the standard library of Python {python} without the fifth that `hf_rlsearch.embedded` keeps for
  validation, and the topics of `help()`; {rows:,} blocks of 64 tokens.
- Trained for {steps:,} steps of {batch_size} blocks ({epochs:.0f} epochs), {seconds:.0f} s on a CPU,
  threads: {threads}; torch {torch}, transformers {transformers}.
- Loss on the held-out fifth: {eval_loss:.3f} nats per {unit} (a uniform guess: {uniform:.3f}).
- Stored in half precision, computed in single precision.
"""


def write_card(args: Args, folder: Path, model: PreTrainedModel, result: dict[str, Any]) -> None:
    """Writes README.md: how the checkpoint was made and what it reached."""
    is_masked = args.checkpoint.startswith("bert")
    facts = {
        "kind": "BERT masked language model" if is_masked else "GPT-2 causal language model",
        "unit": "masked token" if is_masked else "token",
        "parameters": model.num_parameters(),
        "layers": model.config.num_hidden_layers,
        "width": model.config.hidden_size,
        "epochs": args.steps * args.batch_size / result["rows"],
        "uniform": math.log(args.vocabulary),
        "threads": torch.get_num_threads(),
        "python": ".".join(platform.python_version_tuple()[:2]),
        "torch": torch.__version__.split("+")[0],
        "transformers": transformers.__version__,
    }
    (folder / "README.md").write_text(CARD.format(**vars(args), **facts, **result), encoding="utf-8")


def save(folder: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> None:
    """Saves half-precision weights under a configuration that asks for single precision."""
    model.half().save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)
    tokenizer.save_pretrained(folder)
    _set(folder / "config.json", "dtype", "float32")
    _set(folder / "tokenizer_config.json", "tokenizer_class", "PreTrainedTokenizerFast")  # the name all versions know


def _set(path: Path, key: str, value: str) -> None:
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, key: value}, indent=2, sort_keys=True) + "\n")


def main() -> None:
    """Makes what the command line asks for."""
    (args,) = HfArgumentParser(Args).parse_args_into_dataclasses()
    if args.docstrings:
        write_docstrings(Path(args.output or Path(embedded.__file__).parent) / "docstrings.jsonl.gz")
    if args.checkpoint:
        make_checkpoint(args)
    if not args.docstrings and not args.checkpoint:
        raise SystemExit("Nothing to make: give --docstrings or --checkpoint.")


def make_checkpoint(args: Args) -> None:
    """Trains one checkpoint and writes its folder."""
    transformers.set_seed(args.seed)
    make_tokenizer, make_model = {"bert-tiny": (bert_tokenizer, bert), "gpt2-tiny": (gpt2_tokenizer, gpt2)}[
        args.checkpoint
    ]
    tokenizer = make_tokenizer(texts(validation=False), args.vocabulary)
    model = make_model(tokenizer)
    print(f"{args.checkpoint}: {model.num_parameters():,} parameters, {len(tokenizer)} tokens", flush=True)
    result = train(args, model, tokenizer)
    folder = Path(args.output or embedded.path(args.checkpoint))
    save(folder, model, tokenizer)
    write_card(args, folder, model, result)
    print(f"held-out loss {result['eval_loss']:.3f} after {result['seconds']:.0f} s; written to {folder}")


if __name__ == "__main__":
    main()
