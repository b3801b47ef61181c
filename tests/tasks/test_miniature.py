"""Miniature trainings: side by side they do what one by torch and transformers does, and what real trainings do."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef
from torch import Tensor
from transformers.optimization import Adafactor, get_scheduler

from hf_rlsearch.tasks.miniature.network import Layout, NetworkShape, Parameter
from hf_rlsearch.tasks.miniature.optimizers import OPTIMIZERS
from hf_rlsearch.tasks.miniature.problem import KINDS, Problem, draw_problem
from hf_rlsearch.tasks.miniature.scores import CLASSIFICATION, NEXT_TOKEN, SCORES, scores
from hf_rlsearch.tasks.miniature.training import Results, Start, _schedules, pretrain, settings_of, train

LOSS, ACCURACY = 0, 1
LAYOUT = Layout({"matrix": Parameter((4, 3), 0), "bias": Parameter((3,), 0)})


def shape_of(problem: Problem, kind: str, n_outputs: int, width: int = 16) -> NetworkShape:
    per_token = problem.body == "attention" and kind == NEXT_TOKEN
    return NetworkShape(
        problem.body, problem.n_inputs, problem.vocabulary, problem.length, width, 2, n_outputs, per_token=per_token
    )  # fmt: skip


def start_of(problem: Problem, seed: int = 0, steps: int = 40) -> Start:
    """A network that was pretrained for a short time."""
    generator = torch.Generator().manual_seed(seed)
    source = shape_of(problem, problem.source_kind, problem.n_source_outputs)
    weights = pretrain(problem.source_kind, source, problem.source, generator, steps=steps, rate=5e-3)
    return Start(shape_of(problem, problem.kind, problem.n_outputs), weights, problem.kind != NEXT_TOKEN)


def classification(n_rows: int = 192, seed: int = 5) -> Problem:
    return draw_problem(np.random.default_rng(seed), "mlp", CLASSIFICATION, n_rows, 400)


PROBLEM = classification()
START = start_of(PROBLEM, steps=300)


def run(problem: Problem = PROBLEM, start: Start = START, *, n: int, seed: int = 1, **settings: object) -> Results:
    return train(
        problem.kind, [start], problem.data, problem.validation, settings_of(n, **settings), seed, 4, one_seed=True
    )  # fmt: skip


@pytest.mark.parametrize(("body", "kind", "_share"), KINDS)
@pytest.mark.parametrize("rank", [0, 2])
def test_trainings_side_by_side_are_those_that_run_alone(body: str, kind: str, _share: float, rank: int) -> None:
    problem = draw_problem(np.random.default_rng(1), body, kind, 40, 30)
    start = start_of(problem)
    rates = np.array([1e-3, 1e-2, 3e-2])
    same = {"lora_rank": rank, "batch_size": 8, "weight_decay": 0.01}
    together = run(problem, start, n=3, learning_rate=rates, epochs=[1, 3, 2], **same)
    for i, (rate, epochs) in enumerate(zip(rates, (1, 3, 2), strict=True)):
        alone = run(problem, start, n=1, learning_rate=rate, epochs=epochs, **same)
        np.testing.assert_allclose(together.scores[i, :, LOSS], alone.scores[0, :, LOSS], rtol=1e-3)
        np.testing.assert_allclose(together.train_loss[i], alone.train_loss[0], rtol=1e-3)
        assert together.steps[i] == alone.steps[0] == 5 * epochs


def test_scores_start_at_chance_rise_with_the_rate_and_fall() -> None:
    rates = 10 ** np.arange(-5.0, 1.1, 0.5)
    results = run(n=len(rates), learning_rate=rates, batch_size=8, epochs=3)
    accuracy, untrained = results.scores[:, -1, ACCURACY], results.scores[0, 0, ACCURACY]
    best = int(accuracy.argmax())
    assert np.abs(accuracy[:3] - untrained).max() < 0.1  # nothing is learnt at 1e-5 to 1e-4
    assert 4 <= best <= 8
    assert accuracy[best] > untrained + 0.2
    assert accuracy[-2:].max() < accuracy[best] - 0.15
    assert accuracy[3] <= accuracy[4] <= accuracy[5]


def test_fewer_steps_need_a_higher_rate() -> None:
    rates = 10 ** np.arange(-4.0, 0.1, 0.25)
    best = {}
    for steps in (8, 240):
        losses = []
        for seed in range(3):
            problem = classification(512, 5 + seed)
            results = run(
                problem, start_of(problem, steps=100), n=len(rates), learning_rate=rates, batch_size=8, max_steps=steps
            )
            losses.append(results.scores[:, -1, LOSS] - results.scores[:, -1, LOSS].min())
        best[steps] = float(np.log10(rates[np.mean(losses, 0).argmin()]))
    assert best[8] >= best[240] + 0.25


def test_a_training_that_diverges_guesses_class_zero_and_has_no_loss() -> None:
    results = run(n=1, learning_rate=1e20, batch_size=8, epochs=2, optimizer="sgd")
    share = float((PROBLEM.validation.targets == 0).float().mean())
    assert math.isnan(results.scores[0, -1, LOSS])
    assert results.scores[0, -1, ACCURACY] == pytest.approx(share)


def test_facts_of_trainings() -> None:
    results = run(n=3, frozen_layers=[0, 1, 3], batch_size=[8, 16, 16], epochs=2)
    assert results.steps.tolist() == [48, 24, 24]
    assert results.trainable[0] == 1
    assert 1 > results.trainable[1] > results.trainable[2] > 0
    adapted = run(n=2, lora_rank=[2, 4], batch_size=16, epochs=1)
    assert 1 > adapted.trainable[1] > adapted.trainable[0]
    assert (results.seconds > 0).all()
    assert results.scores.shape == (3, 5, len(SCORES[CLASSIFICATION]))


@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("name", ["adamw_torch", "sgd", "adafactor"])
def test_optimizers_take_the_steps_of_their_originals(name: str, decay: float) -> None:
    rate, generator = 0.05, torch.Generator().manual_seed(0)
    flat = torch.randn(2, 15, generator=generator)
    parts = [part[0].clone().requires_grad_() for part in LAYOUT.unpack(flat.clone()).values()]
    groups = [{"params": [parts[0]], "weight_decay": decay}, {"params": [parts[1]], "weight_decay": 0.0}]
    original: torch.optim.Optimizer = {
        "adamw_torch": lambda: torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98)),
        "sgd": lambda: torch.optim.SGD(groups, lr=rate, momentum=0.8),
        "adafactor": lambda: Adafactor(groups, lr=rate, scale_parameter=False, relative_step=False),
    }[name]()
    values = {"weight_decay": decay, "adam_beta1": 0.9, "adam_beta2": 0.98, "adam_epsilon": 1e-8, "momentum": 0.8}
    ours = OPTIMIZERS[name](flat, LAYOUT, {key: torch.full((2, 1), value) for key, value in values.items()})
    for count in range(1, 6):
        gradient = torch.randn(2, 15, generator=generator)
        for part, grad in zip(parts, LAYOUT.unpack(gradient).values(), strict=True):
            part.grad = grad[0].clone()
        original.step()
        ours.step(gradient, torch.full((2, 1), rate), count)
        for part, own in zip(parts, LAYOUT.unpack(flat).values(), strict=True):
            torch.testing.assert_close(own[0], part.detach(), rtol=1e-4, atol=1e-6)


def test_lion_moves_by_the_sign_of_the_mixed_gradient() -> None:
    flat = torch.zeros(1, 15)
    settings = {"weight_decay": 0.0, "adam_beta1": 0.5, "adam_beta2": 0.9}
    lion = OPTIMIZERS["lion_32bit"](flat, LAYOUT, {key: torch.full((1, 1), value) for key, value in settings.items()})
    lion.step(torch.ones(1, 15), torch.tensor([[0.1]]), 1)
    torch.testing.assert_close(flat, torch.full((1, 15), -0.1))
    lion.step(-0.05 * torch.ones(1, 15), torch.tensor([[0.1]]), 2)  # 0.5 x 0.1 - 0.5 x 0.05 is still positive
    torch.testing.assert_close(flat, torch.full((1, 15), -0.2))


@pytest.mark.parametrize("name", ["linear", "cosine", "constant_with_warmup", "inverse_sqrt"])
@pytest.mark.parametrize("warmup", [0.0, 0.25])
def test_schedules_are_those_of_transformers(name: str, warmup: float) -> None:
    steps = 21
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    schedule = get_scheduler(name, optimizer, num_warmup_steps=math.ceil(steps * warmup), num_training_steps=steps)
    expected = []
    for _ in range(steps):
        expected.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    ours = _schedules(settings_of(1, schedule=name, warmup_ratio=warmup), np.array([steps]))
    np.testing.assert_allclose(ours[0], expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("n_classes", [2, 4])
def test_scores_are_those_of_scikit_learn(n_classes: int) -> None:
    generator = torch.Generator().manual_seed(n_classes)
    outputs, targets = torch.randn(3, 50, n_classes, generator=generator), torch.arange(50) % n_classes
    found = scores(CLASSIFICATION, outputs, targets)
    average = "binary" if n_classes == 2 else "macro"
    for row, guess in zip(found, outputs.argmax(-1), strict=True):
        expected = [
            accuracy_score(targets, guess), f1_score(targets, guess, average=average), matthews_corrcoef(targets, guess)
        ]  # fmt: skip
        np.testing.assert_allclose(row[1:], expected)


def test_smoothing_is_that_of_torch() -> None:
    from hf_rlsearch.tasks.miniature.scores import mean_loss

    outputs, targets = torch.randn(2, 6, 3), torch.tensor([[0, 1, 2, 0, 1, 2]] * 2)
    ours: Tensor = mean_loss(CLASSIFICATION, outputs, targets, torch.tensor([0.1, 0.3]))
    for i, rate in enumerate((0.1, 0.3)):
        expected = torch.nn.functional.cross_entropy(outputs[i], targets[i], label_smoothing=rate)
        torch.testing.assert_close(ours[i], expected)


def test_a_head_that_reads_little_needs_a_higher_rate() -> None:
    rates = 10 ** np.arange(-4.0, -0.9, 0.5)
    narrow = replace(START, shape=replace(START.shape, common=3.0, gain=0.1))
    plain, attenuated = (run(start=s, n=len(rates), learning_rate=rates, batch_size=8) for s in (START, narrow))
    lowest = [(r.scores[:, -1, LOSS] < r.scores[:, 0, LOSS] - 0.02).argmax() for r in (plain, attenuated)]
    assert lowest[1] > lowest[0]


def test_penalties_and_decays_of_the_rate_act() -> None:
    names = ("l1", "l2", "linear_decay", "exponential_decay")
    rows = {name: [0.1 if name == other else 0.0 for other in ("", *names)] for name in names}
    losses = run(n=5, learning_rate=0.02, batch_size=16, epochs=2, **rows).train_loss
    assert np.isfinite(losses).all()
    assert (np.abs(losses[1:] - losses[0]).max(1) > 1e-3).all()
