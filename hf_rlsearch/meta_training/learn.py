"""Trains the agent further on a user's own finished studies, and keeps the result only if it proves better.

The predictors of some weights learn by likelihood from tasks that are made of the studies, see `tasks.studies`. In the
same steps they are held to what they predicted before on tasks of the prior, by the Kullback-Leibler divergence, so
that they forget nothing that the studies do not contradict. Studies that are held out, and other tasks of the prior,
decide whether anything is written.
"""

from __future__ import annotations

import copy
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from optuna.study import Study
from torch import Tensor
from torch.nn import functional as F

from hf_rlsearch._typing import BoolArray, FloatArray, IntArray
from hf_rlsearch._validation import is_integer
from hf_rlsearch.agent.acquisition import log_expected_improvement
from hf_rlsearch.agent.agent import MAX_HYPERPARAMETERS, Agent, one_torch_thread
from hf_rlsearch.agent.checkpoint import AGENT_FILE, load_weights, save_weights
from hf_rlsearch.agent.mixture import Mixture, hide_names
from hf_rlsearch.agent.network import Arrays, Predictor
from hf_rlsearch.envs.search_env import BatchedSearch
from hf_rlsearch.errors import ArgumentsError, SearchSpaceError
from hf_rlsearch.meta_training.predictor import ask, draw_trained, likelihood_loss
from hf_rlsearch.observation.history import History, stable_distributions
from hf_rlsearch.observation.trial_attributes import OUTSIDE
from hf_rlsearch.optuna.confirmation import Gain
from hf_rlsearch.optuna.sampler import facts_for_agent
from hf_rlsearch.optuna.storage import open_studies
from hf_rlsearch.space import SearchSpace
from hf_rlsearch.tasks import histories
from hf_rlsearch.tasks.mix import TaskMix
from hf_rlsearch.tasks.prior import TaskBatch
from hf_rlsearch.tasks.studies import RecordedStudy, StudyTasks

logger = logging.getLogger(__name__)

LEAST_STUDIES, LEAST_TRIALS = 6, 8
"""Studies that are needed, and different complete configurations that each of them needs."""
MARGIN = 0.05
"""Nats per configuration that the agent may lose on tasks of the prior, at the lower end of the interval.

The losses of the two predictors of ``rl-v3``, which differ in their seed alone, were 0.06 apart."""
_HELD_OUT = 0.3  # share of the studies
# Tasks of the tests: of each held-out study, and of the prior; trials that the agent has seen in the former at most.
_TASKS_PER_STUDY, _PRIOR_TASKS, _LONGEST = 16, 192, 10
# Trials of the searches among the recorded configurations of a held-out study that are compared.
_BUDGET = 5


@dataclass(frozen=True)
class Learning:
    """Settings of the training.

    Attributes:
        steps: Gradient steps of each predictor.
        n_own: Tasks of the studies per step.
        n_prior: Tasks of the prior per step.
        n_candidates: Candidates per task.
        n_targets: Candidates scored per task.
        reuse: Steps that share tasks.
        anchor: Weight of the divergence from what the predictor said before.
        hidden_share: Share of the steps in which names and facts are hidden, as the agent reads histories both ways.
        learning_rate: Peak; rises over a tenth of the steps, then falls as a cosine to zero.
        seed: Of everything.
    """

    steps: int = 240
    n_own: int = 16
    n_prior: int = 24
    n_candidates: int = 96
    n_targets: int = 32
    reuse: int = 8
    anchor: float = 3.0
    hidden_share: float = 0.25
    learning_rate: float = 6e-4
    seed: int = 0


@dataclass(frozen=True)
class Learnt:
    """What was learnt from studies, and whether it was kept.

    Attributes:
        n_studies: Studies that taught, without those held out.
        n_held_out: Studies that tested.
        skipped: Names of other studies, and why each was left out; several studies may have one name.
        own: Gain on the held-out studies, in nats per configuration, over studies.
        prior: Gain on tasks of the prior, in the same unit, over tasks; usually a loss.
        regret_before: Mean regret (0 = best recorded, 1 = median) after five trials on the held-out studies.
        regret_after: The same of the agent that has learnt.
        path: Folder that was written; None where the agent was not kept.
    """

    n_studies: int
    n_held_out: int
    skipped: list[tuple[str, str]]
    own: Gain
    prior: Gain
    regret_before: float
    regret_after: float
    path: Path | None = None

    @property
    def is_better(self) -> bool:
        """Whether the held-out studies prove a gain, in likelihood and without more regret, and the prior is kept."""
        return self.own.low > 0 and self.regret_after <= self.regret_before and self.prior.low > -MARGIN

    def to_text(self) -> str:
        """The figures and the verdict for people to read."""
        verdict = f"Written to {self.path}." if self.path else "Nothing is written: the gain is not proven."
        if self.prior.low <= -MARGIN:
            verdict = f"Nothing is written: the agent forgets more than {MARGIN} of what it knew."
        return "\n".join(
            [
                *(f"left out: {name}: {reason}" for name, reason in self.skipped),
                f"learnt from {self.n_studies} studies, tested on {self.n_held_out} others",
                f"gain on those, nats per configuration: {self.own}",
                f"their regret after {_BUDGET} trials: {self.regret_before:.3f} before, {self.regret_after:.3f} after",
                f"gain on tasks of the prior: {self.prior}, at worst -{MARGIN} is accepted",
                verdict,
            ]
        )


def learn(
    studies: Study | str | Path | Sequence[Study | str | Path],
    out: str | Path,
    *,
    weights: str | Path | None = None,
    seed: int = 0,
    log: Callable[[str], None] = logger.info,
) -> Learnt:
    """Trains the agent further on finished studies, for further searches of the same kind.

    Takes some minutes on one core. Three in ten of the studies are held out, two at least; the agent is written only if
    it predicts these better than before, searches them no worse, and loses at most `MARGIN` on tasks of the prior.

    Example:
        >>> result = hf_rlsearch.learn(["search.db"], "my-agent")  # doctest: +SKIP
        >>> print(result.to_text())  # doctest: +SKIP
        >>> sampler = RLSampler(weights="my-agent")  # doctest: +SKIP

    Args:
        studies: Studies, or storages whose studies are all read: folders of searches, files or URLs; or one of these.
            At least six studies of one objective, made by any sampler, each with at least eight different complete
            configurations whose values differ. Other studies are left out, with the reason, and so are copies.
        out: Folder to write, which must not exist yet: ``RLSampler(weights=out)`` reads it.
        weights: Where to start: a bundled name or the path of an agent; the bundled one where not given.
        seed: Of the training, and of which studies are held out; not negative.
        log: Takes a line about every fifth of the training.

    Returns:
        The figures, whether the agent was written or not.

    Raises:
        ArgumentsError: Too few studies can teach; ``out`` exists or cannot be made; or the seed is no whole number.
        StorageError: A storage cannot be read.
        WeightsError: The weights cannot be used.
    """
    if not is_integer(seed) or seed < 0:
        raise ArgumentsError(f"seed is {seed!r}, expected a whole number of at least 0.")
    _check_out(Path(out))
    tensors, card = load_weights(weights)
    sources = [studies] if isinstance(studies, (Study, str, Path)) else studies
    opened = [[source] if isinstance(source, Study) else open_studies(source) for source in sources]
    recorded, skipped = read_studies([study for group in opened for study in group])
    settings = Learning(seed=seed)
    order = np.random.default_rng(seed).permutation(len(recorded))
    n_held_out = max(2, round(_HELD_OUT * len(recorded)))
    held_out, taught = ([recorded[i] for i in part] for part in (order[:n_held_out], order[n_held_out:]))
    log(f"learning from {len(taught)} studies of {sum(len(study.rows) for study in taught)} configurations")
    with one_torch_thread():
        shipped = Agent(tensors, card).mixture
        learnt = Mixture(
            [train(p, StudyTasks(taught), settings, f"predictor {i + 1}", log) for i, p in enumerate(shipped.members)]
        )
        result = test(shipped, learnt, held_out, seed)
    result = replace(result, n_studies=len(taught), skipped=skipped)
    if not result.is_better:
        return result
    own = {f"predictor.{i}.{k}": v for i, p in enumerate(learnt.members) for k, v in p.state_dict().items()}
    verdict = {key: value for key, value in asdict(result).items() if key not in ("skipped", "path")}
    spaces = sorted({study.space.names for study in recorded})
    renewed = replace(
        card,
        name=Path(out).name,
        training={**card.training, "own_studies": {**asdict(settings), "of": card.name, "spaces": spaces}},
        gates={**card.gates, "own_studies": verdict},
    )
    Path(out).mkdir(parents=True)
    save_weights(Path(out) / AGENT_FILE, tensors | own, renewed)
    return replace(result, path=Path(out))


def _check_out(out: Path) -> None:
    """Checks before the training that the folder can be made after it."""
    if os.path.lexists(out):
        raise ArgumentsError(f"out={str(out)!r} exists already: give another folder, or delete it.")
    nearest = next(parent for parent in out.absolute().parents if os.path.lexists(parent))
    if not (nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK)):
        problem = "cannot be written to" if nearest.is_dir() else "is no folder"
        raise ArgumentsError(
            f"out={str(out)!r} cannot be made, because {str(nearest)!r} {problem}: give another folder."
        )


def read_studies(studies: Sequence[Study]) -> tuple[list[RecordedStudy], list[tuple[str, str]]]:
    """Reads what can be learnt from, and says by name why other studies were left out.

    Of studies with the same content only the first is taken: a copy would be tested on what the other has taught.

    Raises:
        ArgumentsError: Too few are left.
    """
    found: list[RecordedStudy] = []
    skipped = []
    for study in studies:
        read = _read(study)
        if isinstance(read, str):
            skipped.append((study.study_name, read))
        elif original := next((other for other in found if read.equals(other)), None):
            skipped.append((study.study_name, f"its trials are those of {original.name!r}, which was read before"))
        else:
            found.append(read)
    if len(found) < LEAST_STUDIES:
        reasons = "".join(f" {name!r}: {reason}." for name, reason in skipped[:3])
        raise ArgumentsError(
            f"{len(found)} of {len(studies)} studies can be learnt from, expected at least {LEAST_STUDIES} of at least "
            f"{LEAST_TRIALS} different complete configurations each.{reasons}"
        )
    return found, skipped


def _read(study: Study) -> RecordedStudy | str:
    """One study, or why nothing can be learnt from it."""
    # A baseline outside of the space is no configuration of it.
    trials = [trial for trial in study.get_trials(deepcopy=False) if not trial.user_attrs.get(OUTSIDE)]
    distributions = stable_distributions(trials)
    # Nor is a trial of a range that was changed later, whose values may lie outside.
    trials = [t for t in trials if all(distributions.get(name, d) == d for name, d in t.distributions.items())]
    if len(study.directions) > 1:
        return "it has several objectives"
    if not 0 < len(distributions) <= MAX_HYPERPARAMETERS:
        return f"{len(distributions)} hyperparameters kept their range, expected 1 to {MAX_HYPERPARAMETERS}"
    conditional = [name for name in distributions if any(name not in t.params for t in trials if t.state.is_finished())]
    try:
        space = SearchSpace.from_distributions(distributions, conditional=conditional)
        facts = facts_for_agent(study, {})
    except (SearchSpaceError, ArgumentsError) as error:
        return str(error)
    history = History.from_trials(trials, study.directions)
    recorded = RecordedStudy.of(study.study_name, space, history, facts)
    if len(recorded.rows) < LEAST_TRIALS:
        return f"{len(recorded.rows)} different complete configurations"
    return recorded if recorded.can_teach else "all values are equal"


def train(
    shipped: Predictor, studies: StudyTasks, settings: Learning, name: str, log: Callable[[str], None]
) -> Predictor:
    """A copy of a predictor that has learnt from studies."""
    network, prior = copy.deepcopy(shipped), TaskMix()
    optimizer = torch.optim.AdamW(network.parameters(), lr=settings.learning_rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, settings.learning_rate, total_steps=settings.steps, pct_start=0.1, cycle_momentum=False
    )
    for step in range(settings.steps):
        rng = np.random.default_rng([settings.seed, 1, step])
        if step % settings.reuse == 0:
            own = studies.draw(rng, settings.n_own, settings.n_candidates)
            general = prior.draw(rng, settings.n_prior, settings.n_candidates)
        observation, labels, weight = ask(rng, own, draw_trained(rng, own), settings.n_targets)
        arrays = Arrays.of(observation)
        hidden = rng.random() < settings.hidden_share
        loss = likelihood_loss(network(hide_names(arrays) if hidden else arrays), labels, weight)
        observation, _, weight = ask(rng, general, draw_trained(rng, general), settings.n_targets)
        anchor = _divergence(shipped, network, Arrays.of(observation), weight)
        optimizer.zero_grad(set_to_none=True)
        (loss + settings.anchor * anchor).backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if (step + 1) % (settings.steps // 5) == 0:
            log(f"{name}, step {step + 1} of {settings.steps}: {loss.item():.3f} nats, {anchor.item():.3f} from before")
    return network.eval()


def _divergence(shipped: Predictor, network: Predictor, arrays: Arrays, weight: FloatArray) -> Tensor:
    """Weighted mean of the Kullback-Leibler divergences of B x K predictions from those that shipped."""
    with torch.no_grad():
        before = shipped(arrays).softmax(-1)
    weights = torch.as_tensor(weight)
    apart = F.kl_div(network(arrays).log_softmax(-1), before, reduction="none").sum(-1)
    return (apart * weights).sum() / weights.sum()


def test(shipped: Mixture, learnt: Mixture, held_out: Sequence[RecordedStudy], seed: int) -> Learnt:
    """Compares both on the recorded configurations of held-out studies and on tasks of the prior, in pairs."""
    own, regrets = [], []
    for i, study in enumerate(held_out):
        rng = np.random.default_rng([seed, 2, i])
        tasks = StudyTasks([study], recorded_share=1.0).draw(rng, _TASKS_PER_STUDY, max(len(study.rows), 48))
        chosen, mask = histories.draw_history(rng, tasks, min(_LONGEST, len(study.rows) - 1))
        own.append(float(_gains(shipped, learnt, rng, tasks, chosen, mask).mean()))
        regrets.append([_regret(mixture, tasks) for mixture in (shipped, learnt)])
    rng = np.random.default_rng([seed, 3])
    general = TaskMix().draw(rng, _PRIOR_TASKS, 96)
    prior = _gains(shipped, learnt, rng, general, *histories.draw_history(rng, general, 2 * _LONGEST))
    before, after = np.mean(regrets, axis=0).tolist()
    return Learnt(0, len(held_out), [], Gain.of(own), Gain.of(prior.tolist()), before, after)


def _gains(
    shipped: Mixture,
    learnt: Mixture,
    rng: np.random.Generator,
    tasks: TaskBatch,
    chosen: IntArray,
    mask: BoolArray,
) -> FloatArray:
    """B differences of the mean log-likelihoods of candidates, after a history of complete trials."""
    trained = histories.Trained.complete(chosen, histories.measure(rng, tasks, chosen), mask)
    observation, labels, weight = ask(rng, tasks, trained, min(40, tasks.candidate_mask.shape[1] - 1))
    arrays = Arrays.of(observation)
    with torch.inference_mode():
        before, after = (
            torch.gather(mixture(arrays), 2, labels[..., None])[..., 0].log().numpy() for mixture in (shipped, learnt)
        )
    return np.asarray(((after - before) * weight).sum(1) / weight.sum(1))


def _regret(mixture: Mixture, tasks: TaskBatch) -> float:
    """Mean regret after `_BUDGET` trials of searches among the candidates, by expected improvement."""
    search = BatchedSearch(lambda rng, n: tasks, len(tasks), _BUDGET, 1, 0)
    search.fix_noise(0)
    while not search.done:
        with torch.inference_mode():
            log_ei = log_expected_improvement(mixture(Arrays.of(search.observe())), mixture.bins).numpy()
        search.step(np.where(search.action_masks()[:, :-1], log_ei, -np.inf).argmax(1))
    shown = np.where(tasks.candidate_mask, tasks.utility, np.nan)
    best, median = np.nanmax(shown, 1), np.nanmedian(shown, 1)
    return float(np.clip((best - search.incumbent) / np.maximum(best - median, 1e-6), 0, 1).mean())
