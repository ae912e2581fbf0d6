"""Samples changed at random, and what the original answers to them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from small_models import context, perceptron, program

from dc_compiler.errors import InvalidArgumentError
from dc_compiler.ort.data import Feed
from dc_compiler.pipeline.step import available_passes
from dc_compiler.training.augment import Changes, is_image, shifted
from dc_compiler.training.graph import make_objective

Array = NDArray[Any]


def test_shifted_images_are_the_image_moved() -> None:
    images = np.random.default_rng(0).standard_normal((20, 2, 6, 5)).astype(np.float32)
    inputs: Feed = {"x": images, "other": np.ones((20, 3), np.float32)}
    moved = shifted(inputs, 1, np.random.default_rng(1))
    assert moved["other"] is inputs["other"]
    offsets = set()
    for before, after in zip(images, moved["x"], strict=True):
        padded = np.pad(before, ((0, 0), (1, 1), (1, 1)), mode="edge")
        fits = [(i, j) for i in range(3) for j in range(3) if np.array_equal(after, padded[:, i : i + 6, j : j + 5])]
        assert len(fits) == 1
        offsets.update(fits)
    assert len(offsets) > 4


def test_about_half_of_the_images_are_mirrored() -> None:
    images = np.random.default_rng(0).standard_normal((200, 1, 4, 5)).astype(np.float32)
    found = Changes(mirror=True).apply({"x": images, "other": images[:, 0, 0]}, np.random.default_rng(1))
    flipped = [np.array_equal(a, b[..., ::-1]) for a, b in zip(found["x"], images, strict=True)]
    same = [np.array_equal(a, b) for a, b in zip(found["x"], images, strict=True)]
    assert all(f != s for f, s in zip(flipped, same, strict=True))
    assert 60 < sum(flipped) < 140
    assert np.array_equal(found["other"], images[:, 0, 0])


def test_a_share_of_the_samples_gets_a_part_of_others() -> None:
    x = np.eye(100, dtype=np.float32)
    inputs: Feed = {"x": x, "numbers": np.arange(100)}
    found = Changes(mix=0.4).apply(inputs, np.random.default_rng(1))
    assert found["x"].dtype == np.float32
    assert np.allclose(found["x"].sum(axis=1), 1)
    changed = (np.diag(found["x"]) < 1).sum()
    assert 20 < changed < 60
    assert ((found["x"] > 0).sum(axis=1) <= 2).all()
    assert np.array_equal(found["numbers"], np.arange(100))


def test_nothing_changes_where_nothing_is_asked_for() -> None:
    inputs: Feed = {"x": np.ones((3, 1, 9, 9), np.float32)}
    assert not Changes().any
    assert Changes().apply(inputs, np.random.default_rng(0))["x"] is inputs["x"]


@pytest.mark.parametrize(
    ("shape", "kind", "expected"),
    [((4, 3, 8, 8), "f4", True), ((4, 2, 8, 8), "f4", False), ((4, 3, 7, 8), "f4", False), ((4, 3, 8, 8), "u1", False)],
)
def test_images(shape: tuple[int, ...], kind: str, expected: bool) -> None:
    assert is_image(np.zeros(shape, kind)) is expected


def data(labelled: bool) -> dict[str, Array]:
    random = np.random.default_rng(3)
    x = random.standard_normal((200, 16)).astype(np.float32)
    return {"x": x} | ({"labels": random.integers(0, 3, 200)} if labelled else {})


def test_the_original_answers_to_changed_samples() -> None:
    model = perceptron()
    samples = context(model, data(False), labels=None).samples
    assert samples is not None
    objective = make_objective(program(model), samples, "match")
    given: Feed = {"x": samples.inputs["x"][:50]}
    assert objective.kind == "mse"
    assert objective.distils
    answers = objective.answers(samples.original_answers(objective.value, given))
    assert answers == pytest.approx(objective.targets[:50], abs=1e-5)
    softened = make_objective(program(model), samples, "distill")
    answers = softened.answers(samples.original_answers(softened.value, given))
    assert answers.sum(axis=-1) == pytest.approx(np.ones(50), abs=1e-5)
    assert answers == pytest.approx(softened.targets[:50], abs=1e-5)


def test_labels_do_not_answer_mixed_samples() -> None:
    model = perceptron()
    step = available_passes()["finetune"].from_text({"mix": "0.5"})
    with pytest.raises(InvalidArgumentError, match="no label tells the answer to mixed samples"):
        step.run(program(model), context(model, data(True)))
    with pytest.raises(InvalidArgumentError, match="mix"):
        available_passes()["finetune"].from_text({"mix": "2"})
