"""Without ``hp_space`` the published ranges of the model's kind are searched, and its task's settings considered."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
from datasets import Dataset, DatasetInfo
from transformers import (
    BertConfig,
    ElectraConfig,
    ElectraForSequenceClassification,
    MarianConfig,
    Trainer,
    TrainerCallback,
)

from hf_rlsearch.agent.agent import Agent
from hf_rlsearch.space import SearchSpace
from hf_rlsearch.trainer.setup.config import SearchConfig
from hf_rlsearch.trainer.setup.default_space import published_for, space_for
from hf_rlsearch.trainer.setup.defaults import default_sampler
from tests.trainer.conftest import Rows, Scripted, run, tiny_model

MakeTrainer = Callable[..., Trainer]


def trainer_of(config: Any, *, data: Any = None, max_steps: int = -1, **others: Any) -> Any:
    args = SimpleNamespace(max_steps=max_steps, predict_with_generate=others.pop("generates", False))
    own = {name: others.pop(name) for name in ("compute_metrics", "is_fsdp_enabled") if name in others}
    return SimpleNamespace(model=SimpleNamespace(config=config, **others), args=args, train_dataset=data, **own)


def pretrained(config: Any) -> Any:
    config.name_or_path = "somebody/checkpoint"
    return config


def distributions(trainer: Any, **options: Any) -> dict[str, Any]:
    space = space_for(trainer, **{"is_factory": False, **options})
    return dict(SearchSpace.from_functions(space).distributions)


def test_the_space_follows_from_the_model() -> None:
    electra = distributions(trainer_of(pretrained(ElectraConfig())))
    assert (electra["learning_rate"].low, electra["learning_rate"].high) == (1e-5, 5e-4)
    assert electra["num_train_epochs"].high == 10
    marian = distributions(trainer_of(MarianConfig()))
    assert marian["learning_rate"].high == 2e-3
    assert "num_train_epochs" not in distributions(trainer_of(pretrained(BertConfig()), max_steps=100))
    assert not [name for name in (*electra, *marian) if "seed" in name]


def test_a_model_from_scratch_and_an_unknown_one_get_the_wide_space() -> None:
    for config in (BertConfig(), SimpleNamespace(), None):
        assert distributions(trainer_of(config))["learning_rate"].high == 1e-3
        assert str(space_for(trainer_of(config), is_factory=False)) == "generic"


def test_adapters_have_their_own_rates_and_rank() -> None:
    lora: dict[str, Any] = {"peft_config": {"default": SimpleNamespace(r=8)}, "get_base_model": lambda: None}
    other = {**lora, "peft_config": {"default": SimpleNamespace()}}
    config = pretrained(BertConfig())
    assert distributions(trainer_of(config, **lora))["learning_rate"].high == 3e-3
    assert {"peft.r", "peft.lora_alpha"} & set(distributions(trainer_of(config, **lora))) == {"peft.r"}
    assert "peft.r" not in distributions(trainer_of(config, **other))
    assert "peft.r" not in distributions(trainer_of(config, **lora), is_factory=True)


def test_names_without_an_effect_are_left_out() -> None:
    """Of what is published only some Trainers can use: layer-wise rates, beams, smoothing where there are metrics."""
    electra, marian = pretrained(ElectraConfig()), MarianConfig()
    assert distributions(trainer_of(electra))["train.layer_decay"].choices == (0.8, 0.9, 1.0)
    assert "train.layer_decay" not in distributions(trainer_of(electra), is_factory=True)
    assert "train.layer_decay" not in distributions(trainer_of(electra, is_fsdp_enabled=True))
    assert "gen.num_beams" in distributions(trainer_of(marian, generates=True))
    assert "gen.num_beams" not in distributions(trainer_of(marian))
    assert "gen.num_beams" not in distributions(trainer_of(marian, generates=True), is_factory=True)
    assert "label_smoothing_factor" in distributions(trainer_of(marian, compute_metrics=len))
    assert "label_smoothing_factor" not in distributions(trainer_of(marian))
    for metric, is_searched in [("loss", False), (["bleu", "eval_loss"], False), ("bleu", True)]:
        found = distributions(trainer_of(marian, compute_metrics=len), metric=metric)
        assert ("label_smoothing_factor" in found) == is_searched
    by_loss = trainer_of(marian, compute_metrics=len)
    by_loss.args.metric_for_best_model = "eval_loss"
    assert "label_smoothing_factor" not in distributions(by_loss)


@pytest.mark.parametrize(
    ("info", "task", "rate"),
    [
        ({"dataset_name": "glue", "config_name": "rte"}, "rte", 3e-5),
        ({"builder_name": "squad", "config_name": "plain_text"}, "squad", 5e-5),
        ({"dataset_name": "imdb", "config_name": "plain_text"}, None, 1e-5),
    ],
)
def test_the_task_is_read_from_the_data(info: dict[str, str], task: str | None, rate: float) -> None:
    from transformers import AlbertConfig

    data = Dataset.from_dict({"label": [0]}, info=DatasetInfo(**info))
    trainer = trainer_of(pretrained(AlbertConfig()), data=data)
    assert space_for(trainer, is_factory=False).label == (f"albert, {task}" if task else "albert")
    assert published_for(trainer)[0]["learning_rate"] == rate


def test_published_settings_are_among_the_candidates_unless_the_user_gives_his() -> None:
    trainer = trainer_of(pretrained(BertConfig()))
    hp_space = space_for(trainer, is_factory=False)
    space = SearchSpace.from_functions(hp_space)
    assert space.n_candidates > 1024  # a smaller one is scored whole
    known = published_for(trainer)
    sampler: Any = default_sampler(SearchConfig(hp_space=hp_space), space, seed=0, known=known)
    assert sampler._published == list(known)
    his: Any = default_sampler(SearchConfig(published=[{"learning_rate": 1e-3}]), space, seed=0, known=known)
    assert his._published == [{"learning_rate": 1e-3}]
    elsewhere = SearchSpace.from_functions(lambda trial: {"adam_beta1": trial.suggest_float("adam_beta1", 0.8, 0.9)})
    none: Any = default_sampler(SearchConfig(), elsewhere, seed=0, known=known)
    assert none._published == []


def test_every_published_setting_can_be_chosen_from_the_first_trial_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the pool is filled with besides, and for whatever seed."""
    offered: list[list[dict[str, Any]]] = []
    decide = Agent.decide

    def watched(self: Agent, space: SearchSpace, history: Any, rows: Any, **options: Any) -> Any:
        offered.append([space.decode(row) for row in rows])
        return decide(self, space, history, rows, **options)

    monkeypatch.setattr(Agent, "decide", watched)
    trainer = trainer_of(pretrained(BertConfig()))
    hp_space, known = space_for(trainer, is_factory=False), published_for(trainer)
    space = SearchSpace.from_functions(hp_space)
    for seed in range(2):
        study = optuna.create_study(
            sampler=default_sampler(SearchConfig(hp_space=hp_space), space, seed=seed, known=known)
        )
        study.optimize(lambda trial: hp_space(trial)["learning_rate"], n_trials=2)
    assert [len(candidates) for candidates in offered] == [1024] * 4
    for candidates in offered:
        assert [setting for setting in known if not any(setting.items() <= c.items() for c in candidates)] == []


def test_the_numbers_of_published_settings_are_levels() -> None:
    """Of a small space, which is scored whole, too; the user's own ``n_points`` and ``published`` go first."""

    def rates(trial: Any) -> dict[str, float]:
        return {"learning_rate": trial.suggest_float("learning_rate", 1e-6, 1e-3, log=True)}

    def levels(**settings: Any) -> set[float]:
        space = SearchSpace.from_functions(rates, n_points=settings.get("n_points"))
        known = published_for(trainer_of(pretrained(BertConfig())))
        sampler: Any = default_sampler(SearchConfig(hp_space=rates, **settings), space, seed=0, known=known)
        return set(sampler._search_space.hyperparameters[0].levels)

    assert levels() >= {2e-5, 3e-5, 4e-5, 5e-5, 1e-6, 1e-3}
    assert len(levels(n_points=4)) == len(levels(n_points={"learning_rate": 4})) == 4
    assert levels(n_points=4, published=[{"learning_rate": 7.7e-6}]) >= {7.7e-6}
    assert 2e-5 not in levels(published=[{"learning_rate": 7.7e-6}])


def test_a_search_without_hp_space(make_trainer: MakeTrainer, capsys: pytest.CaptureFixture[str]) -> None:
    def model_init() -> Any:
        model = tiny_model()
        model.config.name_or_path = "somebody/checkpoint"
        return model

    values = {"learning_rate": [1e-4], "per_device_train_batch_size": [16], "num_train_epochs": [1]}
    sampler = Scripted(**values, weight_decay=[0.1], warmup_steps=[0.1])
    trainer = make_trainer(model_init=model_init, disable_tqdm=False)
    best = run(trainer, "rl", None, n_trials=1, sampler=sampler)
    assert best.hyperparameters == {name: listed[0] for name, listed in values.items()} | {
        "weight_decay": 0.1,
        "warmup_steps": 0.1,
    }
    assert "the published ranges are searched (bert)" in "".join(capsys.readouterr())
    assert isinstance(trainer.train_dataset, Rows)


def test_the_published_decay_of_electra_is_trained(make_trainer: MakeTrainer) -> None:
    """The rates that the optimizer ended with tell that the layers below had a lower one."""
    sizes = {"embedding_size": 16, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}

    def model_init() -> Any:
        config = pretrained(ElectraConfig(vocab_size=50, intermediate_size=32, max_position_embeddings=16, **sizes))
        return ElectraForSequenceClassification(config)

    class Watch(TrainerCallback):
        def on_step_end(self, *_: Any, optimizer: Any = None, **__: Any) -> None:
            rates.append(len({group["lr"] for group in optimizer.param_groups}))

    rates: list[int] = []
    values = {"learning_rate": [1e-4], "per_device_train_batch_size": [32], "num_train_epochs": [1]}
    sampler = Scripted(**values, weight_decay=[0.01], warmup_steps=[0.0], **{"train.layer_decay": [0.8]})
    best = run(make_trainer(model_init=model_init, callbacks=[Watch]), "rl", None, n_trials=1, sampler=sampler)
    assert best.hyperparameters["train.layer_decay"] == 0.8
    assert rates[0] == 4  # head, two layers, embeddings
