"""Finished parts of meta-training: they come back as they were, and for nothing else than they were made from."""

from pathlib import Path

import pytest
import torch

from hf_rlsearch.meta_training.finished import compare_once, digest, load_finished, save_finished

TENSORS = {"b": torch.arange(6.0).view(2, 3).T, "a": torch.ones(2)}


def test_tensors_come_back_with_the_texts_of_the_header(tmp_path: Path) -> None:
    save_finished(tmp_path / "part.safetensors", TENSORS, {"steps": 3}, step="2")
    tensors, header = load_finished(tmp_path / "part.safetensors", {"steps": 3})
    assert tensors.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        torch.testing.assert_close(tensors[name], tensor, rtol=0, atol=0)
    assert header["step"] == "2"
    assert [path.name for path in tmp_path.iterdir()] == ["part.safetensors"]


@pytest.mark.parametrize("other", [{"steps": 4}, {"steps": 3, "predictors": "abc"}, {}])
def test_a_part_that_was_made_from_something_else_is_refused(tmp_path: Path, other: dict[str, object]) -> None:
    save_finished(tmp_path / "part.safetensors", TENSORS, {"steps": 3})
    with pytest.raises(ValueError, match=r'has other settings or inputs: \{"steps": 3\}.*delete it'):
        load_finished(tmp_path / "part.safetensors", other)


def test_a_comparison_is_made_once_and_never_shown_for_another_part(tmp_path: Path) -> None:
    path, made = tmp_path / "gate.json", []

    def compare() -> dict[str, float]:
        made.append(1)
        return {"difference": -0.5}

    for _ in range(2):
        assert compare_once(path, {"head": "abc"}, compare) == {"difference": -0.5}
    assert len(made) == 1
    with pytest.raises(ValueError, match="has other settings or inputs"):
        compare_once(path, {"head": "xyz"}, compare)


def test_a_digest_knows_names_and_values_and_not_the_order() -> None:
    assert digest(TENSORS) == digest(dict(reversed(TENSORS.items())))
    assert digest(TENSORS) != digest({**TENSORS, "a": torch.tensor([1.0, 1.0 + 1e-6])})
    assert digest(TENSORS) != digest({"b": TENSORS["b"], "c": TENSORS["a"]})
