"""Labelled samples that a model knows by heart."""

from __future__ import annotations

from typing import Any

import numpy as np
from classifier import classifier, data

from dc_compiler import compile_model
from dc_compiler.calibration.by_heart import knows_by_heart
from dc_compiler.calibration.tuning import BY_HEART

Array = np.ndarray


def drawn(count: int = 2000, seed: int = 0) -> tuple[Array, Array]:
    """Probabilities of four classes, and labels drawn by them."""
    generator = np.random.default_rng(seed)
    logits = 2 * generator.standard_normal((count, 4))
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    return p, (p.cumsum(-1) < generator.random((count, 1))).sum(-1)


def test_labels_that_fit_the_probabilities_are_not_known_by_heart() -> None:
    probabilities, labels = drawn()
    assert not knows_by_heart(probabilities, labels)
    assert knows_by_heart(probabilities, probabilities.argmax(-1))
    assert not knows_by_heart(probabilities[:5], probabilities[:5].argmax(-1) * 0)


def compiled(labels: Array, **options: Any) -> Any:
    x = data(3000)["x"]
    return compile_model(
        classifier(), data={"x": x, "y": labels}, labels="y", max_drop=2, execution="dense", jobs=1, **options
    )


def answers() -> Array:
    import onnxruntime

    session = onnxruntime.InferenceSession(classifier().SerializeToString())
    return np.asarray(session.run(None, {"x": data(3000)["x"]})[0])


def test_a_drop_on_samples_known_by_heart_comes_with_a_note() -> None:
    outputs = answers().astype(np.float64)
    p = np.exp(outputs - outputs.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    known = compiled(p.argmax(-1))
    assert any(BY_HEART in note for note in known.report.notes)
    drawn_labels = (p.cumsum(-1) < np.random.default_rng(3).random((len(p), 1))).sum(-1)
    fair = compiled(drawn_labels.clip(0, p.shape[-1] - 1))
    assert not any(BY_HEART in note for note in fair.report.notes)
