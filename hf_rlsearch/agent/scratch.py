"""Learns within one search, from nothing, by PPO or DQN of stable-baselines3: what meta-training is measured against.

The actions are the candidates of the space, the same ones throughout a search. One small network scores each of them
from its levels and a summary of the search so far, so that a result teaches about similar candidates too. Nothing of an
agent is stored: a search that is continued teaches its finished trials to a new one, in their order and with the same
chance.

Letters: B observations, C candidates, D encoded width of a candidate, N finished trials.

Sources: PPO, Schulman et al. 2017 (arXiv:1707.06347); DQN, Mnih et al. 2015; a search as a Markov decision process of
which DQN chooses the configurations, Jomaa et al. 2019 (Hyp-RL, arXiv:1906.11527).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, TypeVar

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.distributions import CategoricalDistribution
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.dqn.policies import DQNPolicy, QNetwork
from torch import Tensor, nn

from hf_rlsearch._typing import BoolArray, FloatArray, IntArray
from hf_rlsearch.agent.agent import one_torch_thread
from hf_rlsearch.agent.decision import Decision
from hf_rlsearch.observation.history import RUNNING, History
from hf_rlsearch.observation.observation import N_CONTEXT_FEATURES, live_observation
from hf_rlsearch.space import SearchSpace

_WIDTH = 32
_UNKNOWN_TRIALS = 20  # length of the exploration where nobody says how long the search is
# PPO updates after so few trials: its usual 2,048 are longer than any search.
_ROLLOUT = 4
_GRADIENT_STEPS = 8  # of DQN after every trial
_MASKED = -1e4
_NO_ENV: Any = None  # the algorithms are told of trials, they step nothing themselves


_Algorithm = TypeVar("_Algorithm", PPO, DQN)


class ScratchAgent:
    """Decides like `hf_rlsearch.agent.agent.Agent`, with what it has learnt in this search alone.

    The reward of a trial is the share of the earlier trials that it beats, from -1 to 1, and -1 for a failed one: ranks
    need no scale, and nearly every trial says something, unlike an improvement of the best.

    Args:
        algorithm: "ppo-scratch" or "dqn".
        seed: Of the network, and of all chance in learning.
    """

    def __init__(self, algorithm: str, seed: int) -> None:
        self.algorithm, self.seed = algorithm, seed
        self._learner: tuple[object, _Learner] | None = None

    def decide(
        self,
        space: SearchSpace,
        history: History,
        candidates: IntArray,
        *,
        mask: BoolArray,
        n_remaining: int | None,
        facts: Mapping[str, float],
        rng: np.random.Generator,
        acquisition_weight: FloatArray | None = None,
    ) -> Decision:
        """Chooses the candidate to train next.

        Args:
            space: The search space.
            history: All finished and running trials.
            candidates: C x H level indices, the same in every decision of a search.
            mask: C, True where the candidate may be chosen, at least one.
            n_remaining: Trials that are left, this one included; None where unknown. It sets how fast DQN's share of
                random choices falls.
            facts: Known facts by name, see `hf_rlsearch.observation.observation.FACTS`.
            rng: Of the exploration.
            acquisition_weight: Not used: these agents predict no improvement that a price could be weighed against.
        """
        finished = history.select(history.status != RUNNING)
        n_left = max(_UNKNOWN_TRIALS - len(finished), 1) if n_remaining is None else n_remaining
        with one_torch_thread():
            learner = self._taught(space, finished, candidates, facts)
            chances = learner.chances(mask, n_left / (len(finished) + n_left))
        index = int(rng.choice(len(chances), p=chances))
        return Decision(
            index=index, source=self.algorithm, n_candidates=int(mask.sum()), probability=float(chances[index])
        )

    def _taught(
        self, space: SearchSpace, finished: History, candidates: IntArray, facts: Mapping[str, float]
    ) -> _Learner:
        """A learner that has learnt from the finished trials; the last one learns on where it has seen the first."""
        key = (space, candidates.tobytes(), tuple(sorted(facts.items())))
        if self._learner is None or self._learner[0] != key or not self._learner[1].has_begun(finished):
            self._learner = key, _LEARNERS[self.algorithm](space, candidates, facts, self.seed)
        learner = self._learner[1]
        learner.learn(finished)
        return learner


@lru_cache(maxsize=4)
def scratch_agent(algorithm: str, seed: int) -> ScratchAgent:
    """The agent of one seed, once per process, so that it need not learn everything anew for each decision."""
    return ScratchAgent(algorithm, seed)


class _Learner:
    """Learns from finished trials in their order; the same trials and seed give the same network."""

    def __init__(self, space: SearchSpace, candidates: IntArray, facts: Mapping[str, float], seed: int) -> None:
        self.space, self.candidates, self.facts, self.seed = space, candidates, facts, seed
        self.encoded = _encode(space, candidates)
        self.seen: list[tuple[Any, ...]] = []
        self.left = np.ones(len(candidates), bool)
        shape = (N_CONTEXT_FEATURES + len(candidates),)
        self.observations, self.actions = spaces.Box(-np.inf, np.inf, shape), spaces.Discrete(len(candidates))
        with _seeded(seed, 0):
            self.model = self.make()
        self.observation = self.observe(History.from_trials([], []))

    def make(self) -> Any:
        """The algorithm of stable-baselines3, untrained."""
        raise NotImplementedError

    def take(self, action: int, reward: float, after: FloatArray) -> None:
        """Learns from one trial; `after` is the observation with it."""
        raise NotImplementedError

    def chances(self, mask: BoolArray, share_left: float) -> FloatArray:
        """C probabilities of choosing each candidate; `share_left` of the search's trials are left."""
        raise NotImplementedError

    def has_begun(self, finished: History) -> bool:
        """Whether the trials that it has learnt from are the first of these."""
        return self.seen == _records(finished)[: len(self.seen)]

    def learn(self, finished: History) -> None:
        """Learns from the trials that it has not seen."""
        records = _records(finished)
        for n in range(len(self.seen), len(finished)):
            upto = finished.select(np.arange(len(finished)) <= n)
            action = self._action(upto.params[n])
            self.left[action] = False
            after = self.observe(upto)
            with _seeded(self.seed, n + 1):
                self.take(action, _reward(upto.values), after)
            self.observation = after
            self.seen.append(records[n])

    def observe(self, history: History) -> FloatArray:
        """What the network sees: the context of the search, and which candidates were not trained yet."""
        row, allowed = self.candidates[:1], np.ones(1, bool)
        context = live_observation(self.space, history, row, allowed, self.facts).context[0]
        left = self.left if self.left.any() else np.ones_like(self.left)
        return np.concatenate([context, left]).astype(np.float32)

    def _action(self, params: Mapping[str, Any]) -> int:
        """The candidate nearest to what was trained, which may be a configuration of the user."""
        row = self.space.nearest_levels(dict(params))[None]
        return int(np.abs(self.encoded - _encode(self.space, row)).sum(1).argmin())

    def _logits(self, network: Callable[[Tensor], Tensor], mask: BoolArray) -> FloatArray:
        """C scores; the lowest where the mask of this decision is False."""
        seen = np.concatenate([self.observation[:N_CONTEXT_FEATURES], mask]).astype(np.float32)
        with torch.inference_mode():
            return np.asarray(network(torch.as_tensor(seen)[None])[0].double())


class _PpoLearner(_Learner):
    """PPO with rollouts of `_ROLLOUT` trials."""

    def make(self) -> PPO:
        model = PPO(
            _ScratchPolicy, _NO_ENV, n_steps=_ROLLOUT, batch_size=_ROLLOUT, n_epochs=16, learning_rate=1e-2, gamma=0.0,
            ent_coef=0.003, policy_kwargs={"encoded": self.encoded}, device="cpu", _init_setup_model=False,
        )  # fmt: skip
        return _set_up(model, self)

    def take(self, action: int, reward: float, after: FloatArray) -> None:
        policy, buffer = self.model.policy, self.model.rollout_buffer
        before = torch.as_tensor(self.observation)[None]
        with torch.no_grad():
            value, log_prob, _ = policy.evaluate_actions(before, torch.tensor([action]))
        buffer.add(self.observation, np.array([action]), np.array([reward]), np.zeros(1), value, log_prob)
        if buffer.full:
            with torch.no_grad():
                last = policy.predict_values(torch.as_tensor(after)[None])
            buffer.compute_returns_and_advantage(last, np.zeros(1))
            self.model.train()
            buffer.reset()

    def chances(self, mask: BoolArray, share_left: float) -> FloatArray:
        logits = self._logits(self.model.policy.scores, mask)
        chances = np.where(mask, np.exp(logits - logits[mask].max()), 0.0)
        return np.asarray(chances / chances.sum())


class _DqnLearner(_Learner):
    """DQN, which trains on all trials so far after each, and explores epsilon-greedily during half of the search."""

    def make(self) -> DQN:
        model = DQN(
            _ScratchQ, _NO_ENV, buffer_size=1024, batch_size=32, learning_rate=3e-3, gamma=0.5,
            exploration_fraction=0.5, exploration_final_eps=0.05,
            policy_kwargs={"encoded": self.encoded}, device="cpu", _init_setup_model=False,
        )  # fmt: skip
        return _set_up(model, self)

    def take(self, action: int, reward: float, after: FloatArray) -> None:
        end = np.array([False])
        self.model.replay_buffer.add(self.observation, after, np.array([action]), np.array([reward]), end, [{}])
        self.model.train(_GRADIENT_STEPS, batch_size=self.model.batch_size)
        self.model.q_net_target.load_state_dict(self.model.q_net.state_dict())

    def chances(self, mask: BoolArray, share_left: float) -> FloatArray:
        epsilon = self.model.exploration_schedule(share_left)
        greedy = np.where(mask, self._logits(self.model.q_net, mask), -np.inf).argmax()
        return np.asarray(epsilon * mask / mask.sum() + (1 - epsilon) * (np.arange(len(mask)) == greedy))


_LEARNERS: dict[str, type[_Learner]] = {"ppo-scratch": _PpoLearner, "dqn": _DqnLearner}


class _CandidateScores(nn.Module):
    """Observation -> B x C scores: one network for all candidates, which reads a candidate and the search."""

    def __init__(self, encoded: FloatArray) -> None:
        super().__init__()
        self.encoded: Tensor
        self.register_buffer("encoded", torch.as_tensor(encoded, dtype=torch.float32))
        self.net = _mlp(encoded.shape[1] + N_CONTEXT_FEATURES)

    def forward(self, observations: Tensor) -> Tensor:
        """Scores B x (features + C) observations."""
        context, left = observations[:, :N_CONTEXT_FEATURES], observations[:, N_CONTEXT_FEATURES:]
        B, C = left.shape
        pairs = torch.cat([self.encoded.expand(B, -1, -1), context[:, None].expand(-1, C, -1)], -1)
        return torch.as_tensor(self.net(pairs)[..., 0].masked_fill(left < 0.5, _MASKED))


def _mlp(n_in: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(n_in, _WIDTH), nn.Tanh(), nn.Linear(_WIDTH, _WIDTH), nn.Tanh(), nn.Linear(_WIDTH, 1))


class _ScratchQ(DQNPolicy):
    """`_CandidateScores` as the action values of stable-baselines3's DQN."""

    def __init__(self, *args: Any, encoded: FloatArray, **kwargs: Any) -> None:
        self._encoded = encoded
        super().__init__(*args, **kwargs)

    def make_q_net(self) -> QNetwork:
        """A network of action values with ours inside."""
        network = super().make_q_net()
        network.q_net = _CandidateScores(self._encoded)  # type: ignore[assignment]
        return network


class _ScratchPolicy(ActorCriticPolicy):
    """`_CandidateScores` as the actor of stable-baselines3's PPO, beside a critic that reads the context."""

    def __init__(self, *args: Any, encoded: FloatArray, **kwargs: Any) -> None:
        self._encoded = encoded
        super().__init__(*args, **kwargs)

    def _build(self, lr_schedule: Callable[[float], float]) -> None:
        self.scores, self.critic = _CandidateScores(self._encoded), _mlp(N_CONTEXT_FEATURES)
        self.optimizer = self.optimizer_class(self.parameters(), lr=lr_schedule(1), **self.optimizer_kwargs)  # type: ignore[call-arg]

    def evaluate_actions(self, obs: Tensor, actions: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:  # type: ignore[override]
        """Values, log-probabilities and entropies of stored actions."""
        distribution = self.get_distribution(obs)
        return self.predict_values(obs), distribution.log_prob(actions), distribution.entropy()

    def get_distribution(self, obs: Tensor) -> CategoricalDistribution:  # type: ignore[override]
        """The distribution over the candidates that were not trained yet."""
        return CategoricalDistribution(len(self._encoded)).proba_distribution(self.scores(obs))

    def predict_values(self, obs: Tensor) -> Tensor:  # type: ignore[override]
        """B x 1 values."""
        return torch.as_tensor(self.critic(obs[:, :N_CONTEXT_FEATURES]))


def _set_up(model: _Algorithm, learner: _Learner) -> _Algorithm:
    """Prepares an algorithm that is told of trials instead of stepping an environment, as its `load` prepares one."""
    model.observation_space, model.action_space, model.n_envs = learner.observations, learner.actions, 1
    model.seed = None  # all chance is drawn under `_seeded`
    model._setup_model()
    model.set_logger(Logger(folder=None, output_formats=[]))
    return model


def _encode(space: SearchSpace, rows: IntArray) -> FloatArray:
    """N x D of N x H level indices: positions of numbers in [0, 1], one column per category; 0 where missing (-1)."""
    columns = []
    for h, levels in zip(space.hyperparameters, rows.T, strict=True):
        if h.ordered:
            positions = np.array([*(h.position(level) for level in h.levels), 0.0])
            columns.append(positions[levels][:, None])
        else:
            columns.append(levels[:, None] == np.arange(len(h.levels)))
    return np.concatenate(columns, axis=1).astype(np.float32)


def _records(history: History) -> list[tuple[Any, ...]]:
    """What makes a trial the same one: its number, params and value."""
    values = np.nan_to_num(history.values, nan=np.inf).tolist()
    return list(zip(history.numbers.tolist(), history.params, values, strict=True))


def _reward(values: FloatArray) -> float:
    """Of the last of N trials, by the share of the others that it beats; a tie counts half."""
    if np.isnan(values[-1]):
        return -1.0
    others = np.where(np.isnan(values[:-1]), -np.inf, values[:-1])
    beaten = (others < values[-1]).sum() + 0.5 * (others == values[-1]).sum()
    return float(2 * beaten / len(others) - 1) if len(others) else 0.0


@contextmanager
def _seeded(seed: int, number: int) -> Iterator[None]:
    """Seeds the global generators, from which stable-baselines3 draws, and restores them afterwards."""
    state = np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        words = np.random.SeedSequence([seed, number]).generate_state(2)
        torch.manual_seed(int(words[0]))
        np.random.seed(words[1:])
        try:
            yield
        finally:
            np.random.set_state(state)
