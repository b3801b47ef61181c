"""Infers from its name what a hyperparameter does in a training."""

import re
from collections.abc import Mapping, Sequence

from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution

from hf_rlsearch._validation import did_you_mean, is_integer, is_number
from hf_rlsearch.errors import SearchSpaceError

ROLES: tuple[str, ...] = (
    "learning_rate",
    "batch_size",
    "epochs",
    "weight_decay",
    "warmup",
    "dropout",
    "lora_rank",
    "lora_alpha",
    "scheduler",
    "optimizer",
    "seed",
    "momentum",
    "label_smoothing",
    "gradient_clipping",
    "width",
    "depth",
    "heads",
    "vocabulary",
    "model",
    "generic_numeric",
    "generic_categorical",
    "layer_decay",
    "accumulation",
    "max_length",
)
"""Every role. The weights store indices into this tuple: new roles are appended at its end, none is ever removed."""

# The first pattern found in the normalised name wins, so the special comes before the general: "lr_scheduler_type" is a
# scheduler although it holds "lr", and "lora_dropout" is a dropout. Names are matched as "_lora_dropout_".
_PATTERNS: tuple[tuple[str, str], ...] = (
    ("layer_decay", r"_(layer_?(wise_)?(lr|learning_rate)_decay|llrd|layer_?wise_decay|layer_decay)_"),
    ("warmup", r"_warm_?ups?_"),
    ("scheduler", r"_(schedulers?|schedule|sched|lr_decay|annealing)_"),
    ("learning_rate", r"_((learning_rates?|learningrate|learn_rate|lrs?(?!_decay)|lr_?\d)_|eta_?0?_$)"),
    ("weight_decay", r"_(weight_?decays?|w_?decay|wd|l2|l2_reg(ulari[sz]ation)?)_"),
    ("accumulation", r"_(accumulation|accumulate|grad_accum|gradient_accum|accum|grad(ient)?_acc|acc_steps)_"),
    ("label_smoothing", r"_(label_smooth(ing)?|smoothing)_"),
    ("gradient_clipping", r"_((max_)?grad_norm|max_norm|(grad(ient)?_)?clip(ping)?(_grad)?(_norm|_value)?)_"),
    # A bare "beta" is as often the strength of a penalty (DPO, KL) as a decay of Adam, which are numbered.
    ("momentum", r"_(momentum|betas|beta_?[12])_"),
    ("dropout", r"_(drop_?out|drop_?path|layer_?drop|dropout_prob|drop_rate)(_|\d)"),
    ("lora_rank", r"_(lora_(r|rank|dim)|peft_(r|rank)|adapter_rank)_"),
    ("lora_alpha", r"_(lora_alpha|peft_alpha)_"),
    ("seed", r"_(seeds?|random_state)_"),
    ("vocabulary", r"_(vocab(ulary)?|merges|bpe|sub_?words?|sentence_?piece|spm)_"),
    (
        "max_length",
        r"_(max_\w*len(gth)?|maxlen|(seq(uence)?|context)_len(gth)?|(context|block)_size|n_(ctx|positions))_",
    ),
    ("batch_size", r"_((mini_?)?batch(?!_norm)(_?sizes?)?|bsz?|mbs)_"),
    ("heads", r"_n?heads?_"),
    ("depth", r"_(depth|n?_?layers?(?!_(norm|scale))|num_\w*layers|blocks)_"),
    (
        "width",
        r"_(width|d_model|d_ff|hidden|intermediate_size|emb(ed)?(d(ing)?)?s?|n_embd|n_inner|units|neurons|channels|"
        r"ff?n|feed_?forward|mlp(_dim)?|(model|inner)_(dim|size)|dims?)_",
    ),
    ("epochs", r"_(epochs?|(max|num|n|train|training|total)_steps|iterations|(max|num|n)_updates)_"),
    ("optimizer", r"_(opt_$|optim(i[sz]ers?)?_)"),
    ("model", r"_(models?|checkpoints?|backbone|pretrained|arch(itecture)?|encoder|plm)_"),
)
_COMPILED = tuple((role, re.compile(pattern)) for role, pattern in _PATTERNS)
# A name is not enough: an activation function is no width, and a switch is no backbone.
_NUMBERS = {"width", "depth", "heads", "vocabulary", "batch_size", "accumulation", "max_length", "gradient_clipping"}
_NAMES = {"model", "optimizer", "scheduler"}
# Alone these names are too short to mean anything; they are LoRA's if all values are whole numbers.
_WHOLE_NUMBER_NAMES: Mapping[str, str] = {"_r_": "lora_rank", "_rank_": "lora_rank", "_alpha_": "lora_alpha"}


def infer_role(name: str, distribution: BaseDistribution) -> str:
    """Finds what a hyperparameter does by its name; where the name is unknown, only whether it is a number.

    Args:
        name: As suggested; case, dots, dashes, camel case and prefixes such as ``"args."`` do not matter.
        distribution: Its values decide where the name says too little.

    Returns:
        One of ``ROLES``.
    """
    # "args.perDevice-BatchSize" becomes "_args_per_device_batch_size_".
    separated = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name)
    normalised = "_" + re.sub(r"[^a-z0-9]+", "_", separated.lower()).strip("_") + "_"
    for role, pattern in _COMPILED:
        if pattern.search(normalised) and _fits(role, distribution):
            return role
    if normalised in _WHOLE_NUMBER_NAMES and _all_whole(distribution):
        return _WHOLE_NUMBER_NAMES[normalised]
    return generic_role(distribution)


def generic_role(distribution: BaseDistribution) -> str:
    """The role of a hyperparameter of which only the values are known: a number, or one of several choices."""
    return "generic_numeric" if _all_numbers(distribution) else "generic_categorical"


def infer_role_of(name: str, levels: Sequence[float | str]) -> str:
    """`infer_role` of a hyperparameter of which a few values are known."""
    return infer_role(name, CategoricalDistribution(tuple(levels)))


def check_role(name: str, role: str) -> str:
    """Returns ``role`` if there is such a role.

    Raises:
        SearchSpaceError: ``role`` is not one of ``ROLES``.
    """
    if role not in ROLES:
        raise SearchSpaceError(
            f"roles gives {name!r} the role {role!r}, expected one of {', '.join(ROLES)}.{did_you_mean(role, ROLES)}"
        )
    return role


def _fits(role: str, distribution: BaseDistribution) -> bool:
    if role in _NUMBERS:
        return _all_numbers(distribution)
    choices = distribution.choices if isinstance(distribution, CategoricalDistribution) else ()
    return role not in _NAMES or any(isinstance(choice, str) for choice in choices)


def _all_numbers(distribution: BaseDistribution) -> bool:
    return not isinstance(distribution, CategoricalDistribution) or all(map(is_number, distribution.choices))


def _all_whole(distribution: BaseDistribution) -> bool:
    if isinstance(distribution, CategoricalDistribution):
        return all(map(is_integer, distribution.choices))
    return isinstance(distribution, IntDistribution)
