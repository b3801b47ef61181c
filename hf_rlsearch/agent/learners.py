"""Learns within one search by PPO or DQN of stable-baselines3: from nothing, or on from the meta-trained agent.

From nothing, the actions are the candidates of the space, the same ones throughout a search. One small network scores
each of them from its levels and a summary of the search so far, so that a result teaches about similar candidates too.
The meta-trained agent learns by its decision head alone: the predictors stay as they are. Nothing of what is learnt is
stored: a search that is continued teaches its finished trials to a new network, in their order and with the same
chance.

Letters: B observations, C candidates, D encoded width of a candidate, N finished trials.

Sources: PPO, Schulman et al. 2017 (arXiv:1707.06347); DQN, Mnih et al. 2015; a search as a Markov decision process of
which DQN chooses the configurations, Jomaa et al. 2019 (Hyp-RL, arXiv:1906.11527).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache, partial
from typing import Any, TypeVar, cast

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.distributions import CategoricalDistribution
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import create_mlp
from stable_baselines3.common.utils import obs_as_tensor
from stable_baselines3.dqn.policies import DQNPolicy, QNetwork
from torch import Tensor, nn

from hf_rlsearch._typing import BoolArray, FloatArray, IntArray
from hf_rlsearch.agent.acquisition import CANDIDATE_FEATURES, SEARCH_FEATURES, search_features
from hf_rlsearch.agent.agent import MAX_HYPERPARAMETERS, Agent, one_torch_thread, shorten
from hf_rlsearch.agent.decision import Decision
from hf_rlsearch.agent.decision_head import DecisionHead, zero_last
from hf_rlsearch.agent.network import Arrays
from hf_rlsearch.observation.history import RUNNING, History
from hf_rlsearch.observation.observation import N_CONTEXT_FEATURES, live_observation
from hf_rlsearch.space import SearchSpace

_WIDTH = 32
Observations = dict[str, Tensor]
N_TRUTH = 4
"""Columns that only the critic of meta-training sees; zero in a search, where nobody knows the truth."""
_UNKNOWN_TRIALS = 20  # length of the exploration where nobody says how long the search is
# PPO updates after so few trials: its usual 2,048 are longer than any search.
_ROLLOUT, _HEAD_ROLLOUT = 4, 8
_COMPARED = 128  # candidates that a trial of the meta-trained agent is compared with when its head learns
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
        self.algorithm, self.seed, self._taught = algorithm, seed, _Taught()

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
            acquisition_weight: C positive factors on what a candidate is worth, see `CostCooling`; all 1 where not
                given.
        """
        finished = history.select(history.status != RUNNING)
        n_left = max(_UNKNOWN_TRIALS - len(finished), 1) if n_remaining is None else n_remaining
        with one_torch_thread():
            make = partial(_LEARNERS[self.algorithm], space, candidates, facts, self.seed)
            learner = self._taught.learner((space, candidates.tobytes(), tuple(sorted(facts.items()))), make, finished)
            weight = np.where(mask, 1.0 if acquisition_weight is None else acquisition_weight, 0.0)
            chances = learner.chances(weight / weight.max(), n_left / (len(finished) + n_left))
        index = int(rng.choice(len(chances), p=chances))
        return Decision(
            index=index, source=self.algorithm, n_candidates=int(mask.sum()), probability=float(chances[index])
        )


@lru_cache(maxsize=4)
def scratch_agent(algorithm: str, seed: int) -> ScratchAgent:
    """The agent of one seed, once per process, so that it need not learn everything anew for each decision."""
    return ScratchAgent(algorithm, seed)


class OnlineAgent:
    """The meta-trained agent, whose decision head PPO trains on within the search.

    The head starts as the expected improvement of the predictors, or as meta-training has left it, and learns from the
    same rewards as `ScratchAgent`. Each trial is compared with other candidates, the same ones throughout a search.

    Args:
        agent: Of the weights.
        seed: Of all chance in learning.
    """

    def __init__(self, agent: Agent, seed: int) -> None:
        self.agent, self.seed, self._taught = agent, seed, _Taught()

    def decide(
        self, space: SearchSpace, history: History, candidates: IntArray, *, facts: Mapping[str, float], **others: Any
    ) -> Decision:
        """Chooses the candidate to train next; the arguments are those of `Agent.decide`.

        The head learns without the remaining budget, which may change, so it decides without it too.
        """
        if len(space.hyperparameters) > MAX_HYPERPARAMETERS:
            return self.agent.decide(space, history, candidates, facts=facts, **others)
        finished = history.select(history.status != RUNNING)
        with one_torch_thread():
            make = partial(_HeadLearner, space, self.agent, facts, self.seed)
            learner = self._taught.learner((space, tuple(sorted(facts.items()))), make, finished)
        agent = self.agent.with_head(learner.head)
        return agent.decide(space, history, candidates, facts=facts, **{**others, "n_remaining": None})


@lru_cache(maxsize=4)
def online_agent(agent: Agent, seed: int) -> OnlineAgent:
    """The online agent of an agent and a seed, once per process, see `scratch_agent`."""
    return OnlineAgent(agent, seed)


_Kind = TypeVar("_Kind", bound="_Learner")


class _Taught:
    """Keeps the last learner, which learns on where it has seen the first of the finished trials."""

    def __init__(self) -> None:
        self._last: tuple[object, _Learner] | None = None

    def learner(self, key: object, make: Callable[[], _Kind], finished: History) -> _Kind:
        """A learner of `make` that has learnt from the finished trials; one of the same key may be used again."""
        if self._last is None or self._last[0] != key or not self._last[1].has_begun(finished):
            self._last = key, make()
        learner = self._last[1]
        learner.learn(finished)
        return cast(_Kind, learner)


class _Learner:
    """Learns from finished trials in their order; the same trials and seed give the same network."""

    def __init__(self, space: SearchSpace, facts: Mapping[str, float], seed: int) -> None:
        self.space, self.facts, self.seed = space, facts, seed
        self.seen: list[tuple[Any, ...]] = []
        with _seeded(seed, 0):
            self.model = self.make()

    def make(self) -> Any:
        """The algorithm of stable-baselines3, as it begins the search."""
        raise NotImplementedError

    def take(self, history: History) -> None:
        """Learns from the last of these trials."""
        raise NotImplementedError

    def has_begun(self, finished: History) -> bool:
        """Whether the trials that it has learnt from are the first of these."""
        return self.seen == _records(finished)[: len(self.seen)]

    def learn(self, finished: History) -> None:
        """Learns from the trials that it has not seen."""
        records = _records(finished)
        for n in range(len(self.seen), len(finished)):
            with _seeded(self.seed, n + 1):
                self.take(finished.select(np.arange(len(finished)) <= n))
            self.seen.append(records[n])


class _HeadLearner(_Learner):
    """PPO on the decision head of the meta-trained agent."""

    def __init__(self, space: SearchSpace, agent: Agent, facts: Mapping[str, float], seed: int) -> None:
        self.agent = agent
        self.compared = space.candidates(np.random.default_rng(seed), limit=_COMPARED - 1)
        super().__init__(space, facts, seed)

    @property
    def head(self) -> DecisionHead:
        """The head as it is now."""
        return cast(SearchPolicy, self.model.policy).head

    def make(self) -> PPO:
        model = PPO(
            SearchPolicy, _NO_ENV, n_steps=_HEAD_ROLLOUT, batch_size=_HEAD_ROLLOUT, n_epochs=8, learning_rate=1e-2,
            gamma=0.0, device="cpu", _init_setup_model=False,
        )  # fmt: skip
        n_rows = len(self.compared) + 1
        model = _set_up(model, feature_space(n_rows), spaces.Discrete(n_rows + 1))
        if self.agent.head is not None:
            cast(SearchPolicy, model.policy).head.load_state_dict(self.agent.head.state_dict())
        return model

    def take(self, history: History) -> None:
        before, params = history.select(np.arange(len(history)) < len(history) - 1), dict(history.params[-1])
        own = np.maximum(self.space.nearest_levels(params), 0)
        rows = np.concatenate([own[None], self.compared])  # the trial is action 0
        observation = self._observe(before, rows)
        _learn_by_ppo(self.model, observation, 0, _reward(history.values))

    def _observe(self, history: History, rows: IntArray) -> dict[str, FloatArray]:
        mixture, allowed = self.agent.mixture, torch.ones(1, len(rows), dtype=torch.bool)
        arrays = Arrays.of(live_observation(self.space, shorten(history), rows, np.ones(len(rows), bool), self.facts))
        unknown, n_done = torch.tensor([float("nan")]), torch.tensor([float(len(history))])
        with torch.no_grad():
            candidates = mixture.describe(mixture.encode_history(arrays), arrays, allowed)[1]
            nothing = torch.tensor([-1]), torch.zeros(1)  # runs
            search = search_features(candidates, allowed, *nothing, unknown, unknown, n_done)
        mask = np.append(np.ones(len(rows)), 0.0)[None]
        found = {"candidates": candidates.numpy(), "search": search.numpy(), "mask": mask}
        return {**found, "truth": np.zeros((1, N_TRUTH))}


class _CandidateLearner(_Learner):
    """Starts from nothing; its actions are the candidates of the search."""

    def __init__(self, space: SearchSpace, candidates: IntArray, facts: Mapping[str, float], seed: int) -> None:
        self.candidates, self.encoded = candidates, space.encode(candidates).astype(np.float32)
        self.left = np.ones(len(candidates), bool)
        shape = (N_CONTEXT_FEATURES + len(candidates),)
        self.observations, self.actions = spaces.Box(-np.inf, np.inf, shape), spaces.Discrete(len(candidates))
        super().__init__(space, facts, seed)
        self.observation = self.observe(History.from_trials([], []))

    def update(self, action: int, reward: float, after: FloatArray) -> None:
        """Learns from one trial; `after` is the observation with it."""
        raise NotImplementedError

    def chances(self, weight: FloatArray, share_left: float) -> FloatArray:
        """C probabilities of choosing each candidate.

        Args:
            weight: C factors on what a candidate is worth, in [0, 1]; 0 where it may not be chosen.
            share_left: Of the search's trials.
        """
        raise NotImplementedError

    def take(self, history: History) -> None:
        action = self._action(history.params[-1])
        self.left[action] = False
        after = self.observe(history)
        self.update(action, _reward(history.values), after)
        self.observation = after

    def observe(self, history: History) -> FloatArray:
        """What the network sees: the context of the search, and which candidates were not trained yet."""
        row, allowed = self.candidates[:1], np.ones(1, bool)
        context = live_observation(self.space, history, row, allowed, self.facts).context[0]
        left = self.left if self.left.any() else np.ones_like(self.left)
        return np.concatenate([context, left]).astype(np.float32)

    def _action(self, params: Mapping[str, Any]) -> int:
        """The candidate nearest to what was trained, which may be a configuration of the user."""
        row = self.space.nearest_levels(dict(params))[None]
        return int(np.abs(self.encoded - self.space.encode(row)).sum(1).argmin())

    def _scores(self, network: Callable[[Tensor], Tensor], weight: FloatArray) -> FloatArray:
        """C scores, each with the logarithm of its factor, as the meta-trained agent adds it; -inf where that is 0."""
        seen = np.concatenate([self.observation[:N_CONTEXT_FEATURES], weight > 0]).astype(np.float32)
        with torch.inference_mode():
            scores = np.asarray(network(torch.as_tensor(seen)[None])[0].double())
        with np.errstate(divide="ignore"):
            return np.asarray(scores + np.log(weight))


class _PpoLearner(_CandidateLearner):
    """PPO with rollouts of `_ROLLOUT` trials."""

    def make(self) -> PPO:
        model = PPO(
            _ScratchPolicy, _NO_ENV, n_steps=_ROLLOUT, batch_size=_ROLLOUT, n_epochs=16, learning_rate=1e-2, gamma=0.0,
            ent_coef=0.003, policy_kwargs={"encoded": self.encoded}, device="cpu", _init_setup_model=False,
        )  # fmt: skip
        return _set_up(model, self.observations, self.actions)

    def update(self, action: int, reward: float, after: FloatArray) -> None:
        _learn_by_ppo(self.model, self.observation[None], action, reward)

    def chances(self, weight: FloatArray, share_left: float) -> FloatArray:
        scores = self._scores(self.model.policy.scores, weight)
        chances = np.exp(scores - scores.max())
        return np.asarray(chances / chances.sum())


class _DqnLearner(_CandidateLearner):
    """DQN, which trains on all trials so far after each, and explores epsilon-greedily during half of the search."""

    def make(self) -> DQN:
        model = DQN(
            _ScratchQ, _NO_ENV, buffer_size=1024, batch_size=32, learning_rate=3e-3, gamma=0.5,
            exploration_fraction=0.5, exploration_final_eps=0.05,
            policy_kwargs={"encoded": self.encoded}, device="cpu", _init_setup_model=False,
        )  # fmt: skip
        return _set_up(model, self.observations, self.actions)

    def update(self, action: int, reward: float, after: FloatArray) -> None:
        end = np.array([False])
        self.model.replay_buffer.add(self.observation, after, np.array([action]), np.array([reward]), end, [{}])
        self.model.train(_GRADIENT_STEPS, batch_size=self.model.batch_size)
        self.model.q_net_target.load_state_dict(self.model.q_net.state_dict())

    def chances(self, weight: FloatArray, share_left: float) -> FloatArray:
        epsilon = self.model.exploration_schedule(share_left)
        greedy = np.arange(len(weight)) == self._scores(self.model.q_net, weight).argmax()
        return np.asarray(epsilon * weight / weight.sum() + (1 - epsilon) * greedy)


_LEARNERS: dict[str, type[_CandidateLearner]] = {"ppo-scratch": _PpoLearner, "dqn": _DqnLearner}


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
    return nn.Sequential(*create_mlp(n_in, 1, [_WIDTH, _WIDTH], nn.Tanh))


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


def _set_up(model: _Algorithm, observations: spaces.Space[Any], actions: spaces.Discrete) -> _Algorithm:
    """Prepares an algorithm that is told of trials instead of stepping an environment, as its `load` prepares one."""
    model.observation_space, model.action_space, model.n_envs = observations, actions, 1
    model.seed = None  # all chance is drawn under `_seeded`
    model._setup_model()
    model.set_logger(Logger(folder=None, output_formats=[]))
    return model


def _learn_by_ppo(model: PPO, observation: Any, action: int, reward: float) -> None:
    """Adds a trial to the rollout, an array or a dict of arrays with a leading 1; a full rollout is learnt from.

    Rewards are those of single trials (gamma is 0), so no value has to be bootstrapped.
    """
    buffer = model.rollout_buffer
    with torch.no_grad():
        seen = obs_as_tensor(observation, torch.device("cpu"))
        seen = {k: v.float() for k, v in seen.items()} if isinstance(seen, dict) else seen
        value, log_prob, _ = model.policy.evaluate_actions(seen, torch.tensor([action]))
    buffer.add(observation, np.array([action]), np.array([reward]), np.zeros(1), value, log_prob)
    if buffer.full:
        buffer.compute_returns_and_advantage(torch.zeros(1), np.ones(1))
        model.train()
        buffer.reset()


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


def feature_space(n_candidates: int) -> spaces.Dict:
    """The observation space of the decision head."""

    def box(*shape: int) -> spaces.Box:
        return spaces.Box(-20.0, 20.0, shape, np.float32)

    return spaces.Dict(
        {
            "candidates": box(n_candidates, len(CANDIDATE_FEATURES)),
            "search": box(len(SEARCH_FEATURES)),
            "truth": box(N_TRUTH),
            "mask": spaces.Box(0.0, 1.0, (n_candidates + 1,), np.float32),
        }
    )


class SearchPolicy(ActorCriticPolicy):
    """`DecisionHead` in stable-baselines3's terms; masked actions have probability zero and add no entropy."""

    def _build(self, lr_schedule: Callable[[float], float]) -> None:
        self.head = DecisionHead()
        self.critic = zero_last(len(SEARCH_FEATURES) + N_TRUTH, 64, 1)
        self.optimizer = self.optimizer_class(self.parameters(), lr=lr_schedule(1), **self.optimizer_kwargs)  # type: ignore[call-arg]

    def forward(self, obs: Observations, deterministic: bool = False) -> tuple[Tensor, Tensor, Tensor]:  # type: ignore[override]
        """Actions, values (B x 1) and log-probabilities of B observations."""
        distribution, values = self._evaluate(obs)
        actions = distribution.get_actions(deterministic=deterministic)
        return actions, values[:, None], distribution.log_prob(actions)

    def evaluate_actions(self, obs: Observations, actions: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:  # type: ignore[override]
        """Values, log-probabilities and entropies of stored actions."""
        distribution, values = self._evaluate(obs)
        return values[:, None], distribution.log_prob(actions), distribution.entropy()

    def get_distribution(self, obs: Observations) -> CategoricalDistribution:  # type: ignore[override]
        """The masked distribution over candidates and *continue*."""
        return self._evaluate(obs)[0]

    def predict_values(self, obs: Observations) -> Tensor:  # type: ignore[override]
        """B x 1 values."""
        return self._evaluate(obs)[1][:, None]

    def _evaluate(self, obs: Observations) -> tuple[CategoricalDistribution, Tensor]:
        logits = self.head(obs["candidates"], obs["search"], obs["mask"] > 0)
        values = self.critic(torch.cat([obs["search"], obs["truth"]], -1))[:, 0]
        return CategoricalDistribution(int(logits.shape[1])).proba_distribution(logits), values
