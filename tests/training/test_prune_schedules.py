"""Pruning while training: how much is kept after every removal, that masks only shrink, and zeros."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import Array, context, perceptron, program, samples, weight

from dc_compiler import ir
from dc_compiler.errors import InvalidArgumentError
from dc_compiler.pass_manager import PassManager
from dc_compiler.recipe import parse_pipeline
from dc_compiler.training.loop import Trainer

NAMES = ("w1", "w2")
Masks = dict[str, Array]


def pruned(options: str, before: str = "") -> tuple[ir.Program, list[Masks], dict[str, Any]]:
    """A perceptron, half of whose inputs are always zero (so that criteria meet ties), trained and pruned.

    Gives the program, the masks after every removal, and the report's facts. What is masked is checked to be +0.0.
    """
    seen: list[Masks] = []
    prune = Trainer.prune

    def watched(self: Trainer, masks: Mapping[str, Array]) -> None:
        prune(self, masks)
        current = dict(zip((r.name for r in self.parameters.records), self.parameters.weights, strict=True))
        seen.append({name: np.array(kept(weight(net, name))) for name in NAMES})
        for name in NAMES:
            assert not current[name].view(np.uint32)[~seen[-1][name]].any()

    model, arrays = perceptron(), samples(200)
    arrays["x"][:, 8:] = 0
    net = program(model)
    manager = PassManager(parse_pipeline(f"{before}prune({options},lr=0.01,batch=16),encode(lossless)"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "prune", watched)
        reports = manager.run(net, context(model, arrays))
    for name in NAMES:
        assert not weight(net, name).values.view(np.uint32)[~kept(weight(net, name))].any()
    return net, seen, reports[-2].facts


def kept(record: ir.WeightRecord) -> Array:
    return np.ones(record.shape, bool) if record.mask is None else record.mask


def assert_nested(seen: list[Masks]) -> None:
    for earlier, later in pairwise(seen):
        for name in NAMES:
            assert not (later[name] & ~earlier[name]).any()


@given(density=st.floats(0.01, 1.0), rounds=st.integers(1, 6))
@settings(deadline=None, max_examples=12)
def test_iterative_rounds_keep_a_geometric_share(density: float, rounds: int) -> None:
    _, seen, _ = pruned(f"density={density},schedule=iterative,steps={rounds},epochs=1")
    assert len(seen) == rounds
    for number, masks in enumerate(seen, 1):
        for name, size in (("w1", 512), ("w2", 96)):
            assert np.count_nonzero(masks[name]) == max(1, round(density ** (number / rounds) * size))
    assert_nested(seen)


@pytest.mark.parametrize("criterion", ["magnitude", "obd"])
@pytest.mark.parametrize("scope", ["layer", "global"])
@given(density=st.floats(0.01, 1.0), steps=st.integers(1, 6))
@settings(deadline=None, max_examples=6)
def test_gradual_steps_keep_a_cubic_share(criterion: str, scope: str, density: float, steps: int) -> None:
    _, seen, _ = pruned(
        f"density={density},schedule=gradual,steps={steps},epochs=2,criterion={criterion},scope={scope}"
    )
    for number, masks in enumerate(seen, 1):
        share = density + (1 - density) * (1 - number / len(seen)) ** 3
        if scope == "layer":
            for name, size in (("w1", 512), ("w2", 96)):
                assert abs(np.count_nonzero(masks[name]) - max(1, share * size)) <= 0.5 + 1e-6
        else:
            assert abs(sum(map(np.count_nonzero, masks.values())) - max(1, share * 608)) <= 0.5 + 1e-6
    assert_nested(seen)


@pytest.mark.parametrize("schedule", ["gradual", "iterative"])
def test_what_was_pruned_before_stays_pruned(schedule: str) -> None:
    """Early removals would keep more than there is left."""
    net, seen, _ = pruned(f"density=0.1,schedule={schedule},epochs=1", before="prune(density=0.3),")
    first = program(perceptron())
    PassManager(parse_pipeline("prune(density=0.3),encode(lossless)")).run(first, context(perceptron(), samples()))
    assert_nested([{name: kept(weight(first, name)) for name in NAMES}, *seen])
    assert np.count_nonzero(kept(weight(net, "w1"))) == 51


def test_rounds_retrain() -> None:
    """The best epoch is one after the last removal, and better than pruning without retraining."""
    _, seen, facts = pruned("density=0.1,schedule=iterative,epochs=10")
    assert len(seen) == 5
    assert 8 < facts["best epoch"] <= 10
    _, _, once = pruned("density=0.1,schedule=iterative,steps=1,epochs=0.1")
    assert facts["validation loss after"] < 0.5 * once["validation loss after"]


@pytest.mark.parametrize("schedule", ["gradual", "iterative"])
def test_the_best_epoch_is_a_pruned_one(schedule: str) -> None:
    """Also where everything was better before, and with fewer training steps than removals."""
    net, _, facts = pruned(
        f"density=0.02,schedule={schedule},steps=1,epochs=0.01", before="finetune(epochs=9,lr=0.01),"
    )
    assert facts["validation loss after"] > facts["validation loss before"]
    assert np.count_nonzero(weight(net, "w1").values) == 10
    _, seen, _ = pruned(f"density=0.02,schedule={schedule},epochs=0.01")
    assert np.count_nonzero(seen[-1]["w1"]) == 10


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ("schedule=iterative,criterion=obd", "before any gradient is known"),
        ("schedule=iterative,epochs=0", "the iterative schedule needs some"),
    ],
)
def test_schedules_that_cannot_be_kept(options: str, sentence: str) -> None:
    with pytest.raises(InvalidArgumentError, match=sentence):
        pruned(f"density=0.1,{options}")
