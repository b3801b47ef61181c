"""Freezes, re-initializes and slows the layers of a model, after finding the layer of each parameter.

A stack of layers is an outermost ``ModuleList`` of equal blocks, such as ``bert.encoder.layer``. An encoder-decoder has
two stacks. Modules that are registered before the stacks, and all embeddings, are below them; later modules are above.
"""

import re
from typing import TYPE_CHECKING, NamedTuple

from hf_rlsearch.errors import SearchSpaceError

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer
    from transformers import PreTrainedModel

# Some models register embeddings after the layers, such as those of relative positions.
_EMBEDDING = re.compile(r"(^|[._])(rel_)?embed(s|ding|dings|_tokens|_positions)?([._]|$)")


class Place(NamedTuple):
    """Place of a parameter in the stack of layers."""

    from_below: int  # 0 for embeddings, then 1 for the lowest layer and so on; a large number above the stacks
    from_above: int  # 0 above the stacks, 1 for the top layer and so on; the largest number for embeddings


_ABOVE = Place(10**9, 0)


def stacks(model: "nn.Module") -> "dict[str, nn.ModuleList]":
    """Returns the stacks of layers by name, in the order of the model's modules."""
    from torch import nn

    found: dict[str, nn.ModuleList] = {}
    for name, module in model.named_modules():
        inside = any(name.startswith(f"{outer}.") for outer in found)
        if isinstance(module, nn.ModuleList) and len(module) and not inside and _are_blocks(list(module)):
            found[name] = module
    return found


def n_layers(model: "nn.Module") -> int:
    """Returns the number of layers of the highest stack, 0 without a stack."""
    return max((len(stack) for stack in stacks(model).values()), default=0)


def places(model: "nn.Module") -> dict[str, Place]:
    """Returns the place of each parameter by name."""
    found, highest = stacks(model), n_layers(model)
    below, reached, result = Place(0, highest + 1), False, {}
    for name, _ in model.named_parameters():
        stack = next((key for key in found if name.startswith(f"{key}.")), None)
        if stack is not None:
            index, reached = int(name[len(stack) + 1 :].split(".")[0]), True
            result[name] = Place(index + 1, len(found[stack]) - index)
        else:
            result[name] = below if not reached or _EMBEDDING.search(name) else _ABOVE
    return result


def freeze(model: "nn.Module", n_frozen: int, n_new: int = 0) -> None:
    """Stops the training of the embeddings and the lowest layers of each stack; 0 freezes nothing.

    The ``n_new`` top layers, which have new weights, are always trained.

    Source:
        Lee et al. 2019 (arXiv:1911.03090), who freeze the embeddings and the first layers together.
    """
    if n_frozen == 0:
        return
    where = places(model)
    for name, parameter in model.named_parameters():
        if where[name].from_below <= n_frozen and where[name].from_above > n_new:
            parameter.requires_grad_(False)


def reinitialize(model: "PreTrainedModel", n_top: int) -> None:
    """Gives new random weights to the top layers of each stack and to a pooler above them; 0 changes nothing.

    Source:
        Zhang et al. 2021 (arXiv:2006.05987), section 5: the pooler and the top layers.
    """
    import torch

    if n_top == 0:
        return
    tops = [layer for stack in stacks(model).values() for layer in list(stack)[-n_top:]]
    tops += [module for name, module in model.named_modules() if name.rpartition(".")[2] == "pooler"]
    with torch.no_grad():
        for top in tops:
            # transformers does not initialize weights again that have its mark of a loaded checkpoint.
            for tensor in (*top.parameters(), *top.buffers()):
                vars(tensor).pop("_is_hf_initialized", None)
            for module in top.modules():
                model._init_weights(module)  # type: ignore[no-untyped-call]


def decay_rates(optimizer: "Optimizer", model: "nn.Module", decay: float) -> None:
    """Splits an optimizer's groups by layer and lowers the learning rate by a factor from each layer to the next below.

    The rate of the top layer is the rate of the head times the factor, which is in (0, 1].

    Raises:
        SearchSpaceError: The optimizer has parameters that the model does not have, as with FSDP.

    Source:
        Howard and Ruder 2018 (arXiv:1801.06146), section 3.2, one group for each layer; Clark et al. 2020
        (arXiv:2003.10555), appendix B, for Transformers.
    """
    where = places(model)
    heights = {id(parameter): where[name].from_above for name, parameter in model.named_parameters()}
    groups = []
    for group in optimizer.param_groups:
        by_height: dict[int, list[nn.Parameter]] = {}
        for parameter in group["params"]:
            if id(parameter) not in heights:
                raise SearchSpaceError("train.layer_decay needs the model's own parameters; FSDP replaces them.")
            by_height.setdefault(heights[id(parameter)], []).append(parameter)
        for height, parameters in sorted(by_height.items()):
            groups.append({**group, "params": parameters, "lr": group["lr"] * decay**height})
    # In place, because the optimizer's own state and schedules refer to this list.
    optimizer.param_groups[:] = groups


def _are_blocks(items: "list[nn.Module]") -> bool:
    """Returns whether modules are layers: of one type and with modules inside, unlike the linear maps of a head."""
    return len({type(item) for item in items}) == 1 and all(any(True for _ in item.children()) for item in items)
