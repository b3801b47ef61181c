"""Spaces found by dry runs, their levels, and candidates: everything handed out must be what Optuna accepts."""

import enum
import math
import pickle
import warnings
from typing import Any

import numpy as np
import optuna
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from hf_rlsearch.errors import SearchSpaceError
from hf_rlsearch.space import ROLES, Hyperparameter, SearchSpace, infer_role, record
from hf_rlsearch.space.candidates import count_matches, neighbours

FAST = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
FLOAT = FloatDistribution(0.0, 1.0)


class Schedule(str, enum.Enum):  # noqa: UP042  as in transformers, where ``str`` of a member is its name
    LINEAR = "linear"
    COSINE = "cosine"


def default_space(trial: Any) -> dict[str, Any]:
    return {
        "learning_rate": trial.suggest_float("learning_rate", 1e-6, 1e-4, log=True),
        "num_train_epochs": trial.suggest_int("num_train_epochs", 1, 5),
        "per_device_train_batch_size": trial.suggest_categorical("per_device_train_batch_size", [4, 8, 16, 32, 64]),
    }


def quiet(make: Any, *args: Any, **keywords: Any) -> BaseDistribution:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Optuna announces that it rounds high down to a whole number of steps
        return make(*args, **keywords)


finite = st.floats(min_value=-1e12, max_value=1e12, allow_nan=False)
positive = st.floats(min_value=1e-300, max_value=1e300)
floats = st.tuples(finite, finite).map(lambda pair: FloatDistribution(min(pair), max(pair)))
log_floats = st.tuples(positive, positive).map(lambda pair: FloatDistribution(min(pair), max(pair), log=True))
stepped_floats = st.tuples(
    st.integers(-50, 50), st.integers(1, 400), st.sampled_from([0.1, 0.25, 0.001, 3.0, 1 / 3])
).map(lambda p: quiet(FloatDistribution, p[0] / 10, p[0] / 10 + p[1] * p[2], step=p[2]))
whole = st.integers(-(2**52), 2**52)  # above 2^53 a stored float is not exact, and steps cannot be honoured
ints = st.tuples(whole, whole, st.integers(1, 1000)).map(
    lambda p: quiet(IntDistribution, min(p[:2]), max(p[:2]), step=p[2])
)
small_ints = st.tuples(st.integers(-100, 100), st.integers(0, 200), st.integers(1, 7)).map(
    lambda p: quiet(IntDistribution, p[0], p[0] + p[1], step=p[2])
)
log_ints = st.tuples(st.integers(1, 2**60), st.integers(1, 2**60)).map(
    lambda pair: IntDistribution(min(pair), max(pair), log=True)
)
choices = st.lists(
    st.one_of(st.none(), st.booleans(), st.integers(-1000, 1000), st.floats(allow_nan=True), st.text(max_size=3)),
    min_size=1,
    max_size=8,
).map(CategoricalDistribution)
distributions = st.one_of(floats, log_floats, stepped_floats, small_ints, log_ints, choices)


@FAST
@given(st.one_of(distributions, ints), st.sampled_from(["x", "learning_rate"]), st.sampled_from([None, 2, 3, 8, 40]))
@example(IntDistribution(1, 2**60 - 1), "x", None)
@example(IntDistribution(-(2**63), 2**63, step=4), "x", None)
@example(FloatDistribution(-1e308, 1e308), "x", None)
@example(FloatDistribution(5e-324, 1e308, log=True), "learning_rate", None)
@example(CategoricalDistribution([True, 1, 1.0, False]), "x", None)
@example(CategoricalDistribution([float("nan"), 1.0]), "x", None)
@example(CategoricalDistribution([np.float64(0.5), np.str_("a")]), "x", None)
@example(CategoricalDistribution([Schedule.LINEAR, Schedule.COSINE]), "lr_scheduler_type", None)
def test_every_level_is_a_plain_value_that_the_distribution_contains(
    distribution: BaseDistribution, name: str, n_points: int | None
) -> None:
    space = SearchSpace.from_distributions({name: distribution}, n_points=n_points)
    (hyperparameter,) = space.hyperparameters
    internal = [distribution.to_internal_repr(level) for level in hyperparameter.levels]
    assert all(distribution._contains(value) for value in internal)
    assert len(set(internal)) == len(internal) >= 1
    assert all(type(level) in (int, float, str, bool, type(None)) for level in hyperparameter.levels)
    for index, level in enumerate(hyperparameter.levels):
        stored = distribution.to_external_repr(internal[index])
        assert stored == level or (stored != stored and level != level)
        assert hyperparameter.nearest_level(level) == index
        assert 0 <= hyperparameter.position(level) <= 1
    if hyperparameter.ordered:
        assert list(hyperparameter.levels) == sorted(hyperparameter.levels)
        positions = [hyperparameter.position(level) for level in hyperparameter.levels]
        assert positions == sorted(positions)


@FAST
@given(st.dictionaries(st.text(min_size=1, max_size=5), distributions, min_size=1, max_size=4), st.randoms())
def test_encode_inverts_decode(by_name: dict[str, BaseDistribution], random: Any) -> None:
    space = SearchSpace.from_distributions(by_name)
    levels = [random.randrange(n) for n in space.n_levels.tolist()]
    params = space.decode(levels)
    assert list(params) == list(by_name) == list(space.names)
    assert space.nearest_levels(params).tolist() == levels


@FAST
@given(
    st.lists(st.integers(1, 12), min_size=1, max_size=9),
    st.integers(1, 300),
    st.integers(0, 2**32),
    st.integers(0, 5),
)
def test_candidates_are_unique_valid_and_decided_by_the_seed(
    sizes: list[int], limit: int, seed: int, near: int
) -> None:
    space = SearchSpace.from_distributions({f"x{i}": IntDistribution(0, size - 1) for i, size in enumerate(sizes)})
    rng = np.random.default_rng(seed)
    incumbents = [space.decode(rng.integers(0, space.n_levels).tolist()) for _ in range(near)]
    pools = [
        space.candidates(np.random.default_rng(seed), limit=limit, incumbents=incumbents, published=incumbents[:1])
        for _ in range(2)
    ]
    assert pools[0].shape == (min(limit, space.n_candidates), len(sizes))
    assert np.array_equal(*pools)
    assert len(np.unique(pools[0], axis=0)) == len(pools[0])
    assert pools[0].min() >= 0
    assert (pools[0] < space.n_levels).all()


def test_grid_holds_every_candidate_once() -> None:
    space = SearchSpace.from_distributions({"a": IntDistribution(0, 2), "b": CategoricalDistribution(["x", "y"])})
    assert space.n_candidates == 6
    assert space.grid(6).tolist() == [[0, 0], [0, 1], [1, 0], [1, 1], [2, 0], [2, 1]]
    with pytest.raises(
        SearchSpaceError, match=r"has 6 candidates, expected at most 5. 'a' alone has 3 levels: pass n_"
    ):
        space.grid(5)


def test_the_number_of_candidates_is_exact_beyond_64_bits() -> None:
    space = SearchSpace.from_distributions({f"x{i}": IntDistribution(0, 11) for i in range(30)})
    assert space.n_candidates == 12**30
    pool = space.candidates(np.random.default_rng(0), limit=512, incumbents=[space.decode([3] * 30)])
    assert len(np.unique(pool, axis=0)) == 512


def test_a_pool_holds_published_settings_neighbours_and_random_rows() -> None:
    space = SearchSpace.from_distributions({f"x{i}": IntDistribution(0, 11) for i in range(6)})
    published, incumbent = space.decode([7] * 6), space.decode([3] * 6)
    pool = space.candidates(np.random.default_rng(0), limit=600, incumbents=[incumbent], published=[published])
    moved = (pool != 3).sum(axis=1)
    assert (pool == 7).all(axis=1).sum() == 1
    assert 0.25 * 600 < np.isin(moved, (1, 2)).sum() <= 0.4 * 600
    assert (moved > 3).sum() > 0.5 * 600


def test_neighbours_take_single_steps_where_levels_are_ordered() -> None:
    n_levels, centre = np.array([9, 9]), np.array([[0, 4]])
    rows = neighbours(np.random.default_rng(0), n_levels, centre, ordered=np.array([True, True]), count=4000)
    single = rows[rows[:, 1] == 4][:, 0]
    assert set(single.tolist()) == set(range(1, 9))
    assert not (rows == centre).all(axis=1).any()


def test_neighbours_of_an_incumbent_without_a_conditional_value() -> None:
    space = SearchSpace.from_distributions({"a": IntDistribution(0, 9), "b": IntDistribution(0, 9)}, conditional=["b"])
    assert space.nearest_levels({"a": 3}).tolist() == [3, -1]
    pool = space.candidates(np.random.default_rng(0), limit=60, incumbents=[{"a": 3}])
    assert pool.min() >= 0


def test_rows_are_counted_among_others() -> None:
    rows = np.array([[0, 1], [1, 1], [2, 0]])
    assert count_matches(rows, np.array([[2, 0], [5, 5], [-1, 1], [2, 0]])).tolist() == [0, 0, 2]
    assert count_matches(rows, []).tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("learning_rate", "learning_rate"),
        ("lr", "learning_rate"),
        ("args.headLearningRate", "learning_rate"),
        ("lr_scheduler_type", "scheduler"),
        ("layerwise_lr_decay", "layer_decay"),
        ("warmup_ratio", "warmup"),
        ("lr_scheduler.warmup_steps", "warmup"),
        ("per_device_train_batch_size", "batch_size"),
        ("gradient_accumulation_steps", "accumulation"),
        ("num_train_epochs", "epochs"),
        ("max_steps", "steps"),
        ("weight_decay", "weight_decay"),
        ("hidden_dropout_prob", "dropout"),
        ("lora_dropout", "dropout"),
        ("lora_r", "lora_rank"),
        ("lora_alpha", "lora_alpha"),
        ("r", "lora_rank"),
        ("optim", "optimizer"),
        ("data_seed", "seed"),
        ("adam_beta2", "adam_beta"),
        ("betas", "adam_beta"),
        ("beta_1", "adam_beta"),
        ("momentum", "momentum"),
        ("l1", "penalty"),
        ("l2_reg", "penalty"),
        ("exponential_decay", "rate_decay"),
        ("epsilon", "adam_epsilon"),
        ("gen.epsilon_cutoff", "generic_numeric"),
        ("model_size_m", "model_size"),
        ("num_params", "model_size"),
        ("encoder_layerdrop", "dropout"),
        ("label_smoothing_factor", "label_smoothing"),
        ("max_grad_norm", "gradient_clipping"),
        ("hidden_size", "width"),
        ("num_hidden_layers", "depth"),
        ("num_attention_heads", "heads"),
        ("vocab_size", "vocabulary"),
        ("model_name_or_path", "model"),
        ("max_seq_length", "max_length"),
        ("bpe_symbols", "vocabulary"),
        ("sentencepiece_vocab", "vocabulary"),
        ("num_embed", "width"),
        ("embedding_dim", "width"),
        ("ffn_hidden", "width"),
        ("transformer_model_size", "width"),
        ("mlp_dim", "width"),
        ("nheads", "heads"),
        ("num_layer", "depth"),
        ("nlayers", "depth"),
        ("eta", "learning_rate"),
        ("lr0", "learning_rate"),
        ("lr_decay", "rate_decay"),
        ("lr_schedule", "scheduler"),
        ("layer_lr_decay", "layer_decay"),
        ("bsz", "batch_size"),
        ("mini_batch_size", "batch_size"),
        ("opt", "optimizer"),
        ("backbone", "model"),
        ("bpe_dropout", "dropout"),
        ("clip", "gradient_clipping"),
        ("label_smooth", "label_smoothing"),
        ("grad_acc_steps", "accumulation"),
        ("x", "generic_numeric"),
        ("adam_epsilon", "adam_epsilon"),
        ("beta", "generic_numeric"),  # of DPO
        ("kl_beta", "generic_numeric"),
        ("layer_norm_eps", "generic_numeric"),
        ("layer_scale_init_value", "generic_numeric"),
        ("batch_norm", "generic_numeric"),
        ("batch_norm_eps", "generic_numeric"),
    ],
)
def test_roles_are_read_from_names(name: str, role: str) -> None:
    text = CategoricalDistribution(["a", "b"])
    assert infer_role(name, text if role in ("model", "optimizer", "scheduler") else IntDistribution(1, 4)) == role
    assert role in ROLES


@pytest.mark.parametrize(
    ("name", "distribution"),
    [
        ("freeze_encoder", CategoricalDistribution([True, False])),
        ("gen.encoder_no_repeat_ngram_size", IntDistribution(0, 3)),
        ("hidden_act", CategoricalDistribution(["relu", "gelu"])),
        ("tie_word_embeddings", CategoricalDistribution([True, False])),
        ("opt_level", CategoricalDistribution(["O1", "O2"])),
        ("lru_cache", IntDistribution(1, 4)),
        ("lrelu_slope", FLOAT),
        ("eta_min", FLOAT),
    ],
)
def test_a_name_is_not_enough_where_the_values_do_not_fit(name: str, distribution: BaseDistribution) -> None:
    assert infer_role(name, distribution).startswith("generic_")


def test_roles_of_unknown_names_follow_the_values() -> None:
    assert infer_role("r", FLOAT) == "generic_numeric"
    assert infer_role("x", CategoricalDistribution([1, 2.5])) == "generic_numeric"
    assert infer_role("x", CategoricalDistribution([True, False])) == "generic_categorical"
    assert infer_role("x", CategoricalDistribution([1, "a"])) == "generic_categorical"


def test_the_order_of_roles_is_what_weights_were_trained_with() -> None:
    assert ROLES[:5] == ("learning_rate", "batch_size", "epochs", "weight_decay", "warmup")
    assert ROLES[19:24] == ("generic_numeric", "generic_categorical", "layer_decay", "accumulation", "max_length")
    assert ROLES[24:] == ("steps", "adam_beta", "adam_epsilon", "penalty", "rate_decay", "model_size")


def level_count(distribution: BaseDistribution, **keywords: Any) -> int:
    return SearchSpace.from_distributions({"x": distribution}, **keywords).n_candidates


def test_default_levels() -> None:
    space = SearchSpace.from_functions(default_space)
    rate, epochs, batch = space.hyperparameters
    assert rate.levels == (1e-6, 1.8e-6, 3.2e-6, 5.6e-6, 1e-5, 1.8e-5, 3.2e-5, 5.6e-5, 1e-4)
    assert epochs.levels == (1, 2, 3, 4, 5)
    assert batch.levels == (4, 8, 16, 32, 64)
    assert (rate.log, epochs.log, batch.log) == (True, False, True)
    assert level_count(FloatDistribution(1e-12, 1.0, log=True)) == 13
    assert level_count(IntDistribution(1, 12)) == 12
    assert level_count(IntDistribution(1, 13)) == 9
    assert level_count(IntDistribution(8, 1024, log=True)) == 8


def test_linear_levels_are_round_numbers() -> None:
    space = SearchSpace.from_distributions({"weight_decay": FloatDistribution(0.0, 0.3), "y": FloatDistribution(-1, 1)})
    assert space.hyperparameters[0].levels == (0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3)
    assert space.hyperparameters[1].levels == (-1.0, -0.75, -0.5, -0.25, 0.0, 0.25, 0.5, 0.75, 1.0)


def test_steps_are_honoured() -> None:
    space = SearchSpace.from_distributions(
        {"x": FloatDistribution(0.0, 0.3, step=0.1), "y": IntDistribution(1, 99, step=7)}
    )
    assert space.hyperparameters[0].levels == (0.0, 0.1, 0.2, 0.3)
    assert all((level - 1) % 7 == 0 for level in space.hyperparameters[1].levels)


def test_n_points_for_all_and_by_name() -> None:
    assert level_count(FLOAT, n_points=3) == level_count(FLOAT, n_points={"x": 3}) == 3
    assert level_count(IntDistribution(1, 100), n_points=50) == 50
    assert level_count(IntDistribution(1, 4), n_points=50) == 4
    assert level_count(CategoricalDistribution("abc"), n_points=2) == 3


def test_numeric_choices_are_sorted_others_keep_their_order() -> None:
    space = SearchSpace.from_distributions(
        {"b": CategoricalDistribution([64, 16, 32]), "s": CategoricalDistribution(["linear", "cosine", "linear"])}
    )
    assert space.hyperparameters[0].levels == (16, 32, 64)
    assert space.hyperparameters[1].levels == ("linear", "cosine")
    assert [h.ordered for h in space.hyperparameters] == [True, False]


def hyperparameter(distribution: BaseDistribution) -> Hyperparameter:
    return SearchSpace.from_distributions({"x": distribution}).hyperparameters[0]


@pytest.mark.parametrize(
    ("choices", "log"),
    [([8, 16, 32], True), ([1, 2, 3], False), ([0, 1, 10], False), ([0.01, 0.05, 0.2], True), ([2, 3, 4.5], True)],
)
def test_numeric_choices_that_grow_by_factors_are_logarithmic(choices: list[float], log: bool) -> None:
    assert hyperparameter(CategoricalDistribution(choices)).log is log


@pytest.mark.parametrize(
    ("distribution", "all_values"),
    [
        (CategoricalDistribution(["a", "b"]), True),
        (CategoricalDistribution([8, 8, 16]), True),
        (IntDistribution(0, 5), True),
        (IntDistribution(0, 6, step=2), True),
        (IntDistribution(0, 500), False),
        (IntDistribution(1, 512, log=True), False),
        (FloatDistribution(0.5, 0.5), True),
        (FloatDistribution(0.0, 0.3, step=0.1), True),
        (FloatDistribution(0.0, 1.0, step=0.01), False),
        (FloatDistribution(0.0, 1.0), False),
    ],
)
def test_levels_may_be_all_values(distribution: BaseDistribution, all_values: bool) -> None:
    (h,) = SearchSpace.from_distributions({"x": distribution}).hyperparameters
    assert h.has_all_values == all_values


def test_positions() -> None:
    rate = hyperparameter(FloatDistribution(1e-6, 1e-4, log=True))
    assert rate.position(1e-5) == pytest.approx(0.5)
    assert rate.position(2e-5) == pytest.approx(0.5 + math.log10(2) / 2)
    assert (rate.position(1e-9), rate.position(0.0), rate.position(1.0)) == (0, 0, 1)
    names = hyperparameter(CategoricalDistribution(["a", "b", "c"]))
    assert [names.position(value) for value in ("a", "b", "c", "unknown")] == [0, 0.5, 1, 0.5]
    assert hyperparameter(FloatDistribution(2.0, 2.0)).position(2.0) == 0.5
    assert hyperparameter(CategoricalDistribution([True, False])).position(False) == 1


def test_values_between_levels_are_nearest_to_the_closer_one() -> None:
    rate = hyperparameter(FloatDistribution(1e-4, 1.0, log=True))
    levels = rate.levels
    assert rate.nearest_level(levels[2] * 1.01) == 2
    assert rate.nearest_level(levels[3] * 0.99) == 3
    assert (rate.nearest_level(-5), rate.nearest_level(99.0)) == (0, len(levels) - 1)
    assert hyperparameter(CategoricalDistribution(["a", "b"])).nearest_level("c") == -1
    assert hyperparameter(CategoricalDistribution([True, False])).nearest_level(1) == -1
    assert hyperparameter(IntDistribution(1, 3)).nearest_level("2") == -1


def test_dry_run_records_both_functions_and_marks_what_depends_on_choices() -> None:
    def hp_space(trial: Any) -> dict[str, Any]:
        if trial.suggest_categorical("lr_scheduler_type", ["linear", "cosine", "polynomial"]) == "polynomial":
            trial.suggest_float("power", 1.0, 3.0)
        if trial.suggest_float("dropout", 0.0, 0.5) > 0.1:
            trial.suggest_int("layers", 1, 4)
        return {"lr_scheduler_type": trial.params["lr_scheduler_type"], "bf16": True}

    def model_init(trial: Any) -> object:
        if trial.suggest_categorical("use_lora", [True, False]):
            trial.suggest_int("lora_r", 4, 64, log=True)
        return object()

    recording = record(hp_space, model_init)
    assert recording.conditional == {"power", "layers", "lora_r"}
    assert recording.returned == {"lr_scheduler_type", "bf16"}
    assert recording.from_model_init == {"use_lora", "lora_r"}
    assert recording.distributions["lora_r"] == IntDistribution(4, 64, log=True)
    assert recording == record(hp_space, model_init)
    space = SearchSpace.from_functions(hp_space, model_init)
    assert {h.name for h in space.hyperparameters if h.conditional} == {"power", "layers", "lora_r"}
    assert space.distributions == recording.distributions


def test_dry_run_finds_every_one_of_many_choices() -> None:
    def hp_space(trial: Any) -> dict[str, Any]:
        model = trial.suggest_categorical("model", [f"m{i}" for i in range(20)])
        return {"x": trial.suggest_float(f"x_{model}", 0, 1)}

    assert len(SearchSpace.from_functions(hp_space).names) == 21


def test_dry_run_answers_like_a_real_trial() -> None:
    answers = []

    def hp_space(trial: Any) -> dict[str, Any]:
        value = trial.suggest_int("n", 2, 64, log=True)
        assert isinstance(trial, optuna.trial.BaseTrial)
        assert trial.suggest_int("n", 2, 64, log=True) == value == trial.params["n"]
        assert trial.distributions["n"] == IntDistribution(2, 64, log=True)
        trial.set_user_attr("note", value)
        if hasattr(trial, "set_constraint"):  # since Optuna 5
            trial.set_constraint("size", 0.0)
            assert trial.constraints == {"size": 0.0}
        trial.report(0.5, 1)
        assert trial.user_attrs == {"note": value}
        assert not trial.should_prune()
        assert trial.datetime_start is not None
        answers.append((trial.number, type(value), trial.suggest_float("x", 0, 1, step=0.25)))
        return {"n": value}

    SearchSpace.from_functions(hp_space)
    assert [number for number, _, _ in answers] == list(range(len(answers)))
    assert {kind for _, kind, _ in answers} == {int}
    assert {0.0, 1.0} < {x for _, _, x in answers} <= {0.0, 0.25, 0.5, 0.75, 1.0}


def test_old_spellings_are_recorded() -> None:
    def hp_space(trial: Any) -> dict[str, Any]:
        return {
            "a": trial.suggest_uniform("a", 0, 1),
            "b": trial.suggest_loguniform("b", 1e-3, 1),
            "c": trial.suggest_discrete_uniform("c", 0, 1, 0.5),
        }

    assert SearchSpace.from_functions(hp_space).distributions == {
        "a": FloatDistribution(0, 1),
        "b": FloatDistribution(1e-3, 1, log=True),
        "c": FloatDistribution(0, 1, step=0.5),
    }


def test_model_init_without_trial_is_not_called() -> None:
    def model_init() -> None:
        raise AssertionError

    assert SearchSpace.from_functions(default_space, model_init).names == tuple(
        default_space(
            optuna.trial.FixedTrial({"learning_rate": 1e-5, "num_train_epochs": 1, "per_device_train_batch_size": 8})
        )
    )


def test_slow_model_init_is_called_only_until_its_time_is_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hf_rlsearch.space.dry_run._MODEL_INIT_SECONDS", 0.0)
    calls = []

    def model_init(trial: Any) -> None:
        calls.append(trial.suggest_float("dropout", 0, 0.5))

    recording = record(default_space, model_init)
    assert len(calls) == 1
    assert "dropout" in recording.distributions
    assert recording.conditional == frozenset()


def test_ranges_that_depend_on_choices_are_recorded_as_their_hull() -> None:
    def hp_space(trial: Any) -> dict[str, Any]:
        high = 1e-4 if trial.suggest_categorical("use_lora", [False, True]) else 1e-2
        return {"learning_rate": trial.suggest_float("learning_rate", high / 100, high, log=True)}

    assert record(hp_space).distributions["learning_rate"] == FloatDistribution(1e-6, 1e-2, log=True)


def test_refused_combinations_do_not_end_the_dry_run() -> None:
    def hp_space(trial: Any) -> dict[str, Any]:
        if trial.suggest_int("batch_size", 1, 4) * trial.suggest_int("accumulation", 1, 4) > 4:
            raise optuna.TrialPruned
        return {"learning_rate": trial.suggest_float("learning_rate", 0, 1)}

    recording = record(hp_space)
    assert list(recording.distributions) == ["batch_size", "accumulation", "learning_rate"]
    assert recording.conditional == frozenset()


def raises(trial: Any) -> dict[str, Any]:
    return {} if trial.suggest_int("n", 0, 3) < 3 else {"n": 1 // 0}


@pytest.mark.parametrize(
    ("hp_space", "text"),
    [
        (lambda t: {"learning_rate": 1e-5}, "search space is empty: no hyperparameter was suggested"),
        (lambda t: t.suggest_float("x", 0, 1), r"hp_space returned 0.0 of type float, expected a dict of training arg"),
        (lambda t: None, "hp_space returned None of type NoneType"),
        (lambda t: {"x": t.suggest_float("x", "0", 1)}, "range of 'x' holds '0' of type str, expected a number"),
        (lambda t: {"x": t.suggest_float("x", 0, 1, step=None, log=True)}, "range of 'x' is not valid: `low > 0`"),
        (lambda t: {"x": t.suggest_float("x", 1, 0)}, "range of 'x' is not valid: `low <= high`"),
        (lambda t: {"x": t.suggest_int("x", 0, math.inf)}, "range of 'x' is not valid"),
        (lambda t: {"x": t.suggest_float("x", 0, math.inf)}, "'x' ranges from 0.0 to inf, expected finite numbers"),
        (lambda t: {"x": t.suggest_float("x", math.nan, 1)}, "'x' ranges from nan to 1.0"),
        (lambda t: {"x": t.suggest_int("x", 0, 10**400)}, "range of 'x' is not valid: int too large"),
        (lambda t: {"x": t.suggest_categorical("x", [])}, "range of 'x' is not valid: The `choices` must contain one"),
        (lambda t: {"x": t.suggest_categorical("x", [(1, 2)])}, r"'x' has the choice \(1, 2\) of type tuple, expected"),
        (
            lambda t: {"x": t.suggest_categorical("x", np.array([1, 2]))},
            "of type int64, expected None, bool, int, float",
        ),
        (lambda t: {"x": t.suggest_categorical("x", [t.number])}, "one name must keep its kind and choices"),
        (lambda t: {3: t.suggest_float(3, 0, 1)}, "named 3, expected a string"),
        (raises, r"hp_space raised ZeroDivisionError: .* called before the search with the values \{'n': 3\}"),
        (lambda t: {"x": t.study.best_value}, "hp_space raised ValueError: No trials are completed"),
    ],
)
def test_bad_functions_are_refused_before_the_search(hp_space: Any, text: str) -> None:
    with pytest.raises(SearchSpaceError, match=text):
        SearchSpace.from_functions(hp_space)


@pytest.mark.parametrize(
    ("keywords", "text"),
    [
        ({"roles": {"learnig_rate": "learning_rate"}}, "roles names 'learnig_rate'.* Did you mean 'learning_rate'?"),
        ({"roles": {"learning_rate": "learningrate"}}, "the role 'learningrate', .* Did you mean 'learning_rate'?"),
        (
            {"n_points": {"xyz": 3}},
            "n_points names 'xyz', which the search space does not suggest. The space has 'le",
        ),
        ({"n_points": 1}, "n_points for 'learning_rate' is 1, expected a whole number of at least 2"),
        ({"n_points": {"learning_rate": 2.5}}, "n_points for 'learning_rate' is 2.5"),
        ({"n_points": {"optim": 2}}, "n_points names 'optim', whose levels are its choices"),
        ({"conditional": ["x"]}, "conditional names 'x'"),
    ],
)
def test_bad_options(keywords: dict[str, Any], text: str) -> None:
    known = {"learning_rate": FLOAT, "optim": CategoricalDistribution(["adamw_torch", "adafactor"])}
    with pytest.raises(SearchSpaceError, match=text):
        SearchSpace.from_distributions(known, **keywords)


def test_an_empty_space_and_bad_levels() -> None:
    with pytest.raises(SearchSpaceError, match="empty"):
        SearchSpace.from_distributions({})
    space = SearchSpace.from_distributions({"x": IntDistribution(0, 2)})
    for levels in ([3], [-1], [0, 0]):
        with pytest.raises(SearchSpaceError, match=r"expected one below each of \[3\]"):
            space.decode(levels)
    with pytest.raises(SearchSpaceError, match="a name twice: x, x"):
        SearchSpace(space.hyperparameters * 2)
    with pytest.raises(SearchSpaceError, match="'x' has a str, expected Optuna's float, int or categorical"):
        SearchSpace.from_distributions({"x": "uniform"})  # type: ignore[dict-item]
    with pytest.raises(SearchSpaceError, match=r"'x' ranges from 0 to an integer of over 308 digits, expected"):
        SearchSpace.from_distributions({"x": IntDistribution(0, 10**400)})
    with pytest.raises(SearchSpaceError, match=r"none of these whole numbers is one. Use numbers of at most 2\*\*53"):
        SearchSpace.from_distributions({"x": IntDistribution(2**60 + 1, 2**60 + 1)})


def test_numbers_of_settings_become_levels_in_place_of_their_neighbours() -> None:
    rate = Hyperparameter.from_distribution("lr", FloatDistribution(1e-5, 1e-3, log=True), role="learning_rate")
    other = rate.with_levels([2e-5, 1e-3, 5.0, "a", True, None])
    assert 2e-5 in other.levels
    assert (other.levels[0], other.levels[-1]) == (1e-5, 1e-3)
    assert list(other.levels) == sorted(set(other.levels))
    assert len(other.levels) == len(rate.levels)
    assert len(set(rate.levels) - set(other.levels)) == 1  # 1.78e-5, a quarter of the usual distance away
    assert other.nearest_level(2e-5) == other.levels.index(2e-5)
    for value in (1e-5, 1e-4, 5e-4):
        assert other.position(value) == rate.position(value)
    assert rate.with_levels([rate.levels[1]]) is rate
    many = rate.with_levels([2e-5, 3e-5, 4e-5, 5e-5])
    assert {2e-5, 3e-5, 4e-5, 5e-5} <= set(many.levels)
    steps = Hyperparameter.from_distribution("n", IntDistribution(0, 100, step=5), role="generic_numeric")
    assert set(steps.with_levels([35, 36, 37.0]).levels) - set(steps.levels) == {35}
    choices = Hyperparameter.from_distribution("c", CategoricalDistribution([1, 2]), role="generic_numeric")
    assert choices.with_levels([1.5]) is choices
    tenths = SearchSpace.from_distributions({"x": FloatDistribution(0, 0.8, step=0.1)}).hyperparameters[0]
    assert tenths.with_levels([0.1 + 0.2]) is tenths


@pytest.mark.parametrize(
    ("distribution", "tried", "best", "new"),
    [
        (FloatDistribution(0, 8), [], 0.0, {0.5}),
        (FloatDistribution(0, 8), [3.5], 3.0, {2.5, 3.25, 3.5}),
        (FloatDistribution(0, 8), [9.0, None], 8.0, {7.5}),
        (FloatDistribution(1e-4, 1.0, log=True), [], 1.0, {0.68}),
        (FloatDistribution(0, 2, step=0.1), [], 0.2, {0.1, 0.4}),
        (IntDistribution(0, 80, step=5), [], 40, {35, 45}),
        (IntDistribution(0, 20), [4], 5, {4, 7}),
        (IntDistribution(0, 20), [4, 6], 5, {4, 6}),
        (CategoricalDistribution([0, 1, 3]), [], 1, set()),
    ],
)
def test_a_refined_space_has_the_middles_next_to_the_best_values(
    distribution: BaseDistribution, tried: list[Any], best: float, new: set[float]
) -> None:
    space = SearchSpace.from_distributions({"x": distribution, "other": CategoricalDistribution("ab")})
    refined = space.refined([{"x": value} for value in tried], [{"x": best}, {}])
    before, after = (s.hyperparameters[0].levels for s in (space, refined))
    assert set(after) - set(before) == new
    assert list(after) == sorted(set(before) | new)
    assert refined.hyperparameters[1] == space.hyperparameters[1]


def test_roles_can_be_overridden() -> None:
    space = SearchSpace.from_distributions({"x": FloatDistribution(1e-6, 1e-2, log=True)}, roles={"x": "learning_rate"})
    assert space.hyperparameters[0].role == "learning_rate"
    assert space.n_candidates == 17


def test_spaces_are_values() -> None:
    space = SearchSpace.from_functions(default_space)
    assert pickle.loads(pickle.dumps(space)) == space
    assert hash(space) == hash(SearchSpace.from_functions(default_space))


def test_real_optuna_trials_accept_every_level() -> None:
    study = optuna.create_study()
    space = SearchSpace.from_functions(default_space)
    for levels in space.grid(1000)[::37]:
        params = space.decode(levels)
        study.enqueue_trial(params)
        trial = study.ask()
        assert default_space(trial) == params
