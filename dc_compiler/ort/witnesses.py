"""Finds the values that show how far a change moves a model: what outputs are squashed from, with the choices held."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import onnx
from onnx import helper

from dc_compiler.ort import deciding

# What comes before these tells more than what comes after: a sigmoid or softmax that is sure, the place of the largest
SQUASHING = frozenset({
    "ArgMax", "ArgMin", "Clip", "HardSigmoid", "LogSoftmax", "LpNormalization", "Sigmoid", "Softmax", "Tanh",
})  # fmt: skip
SIGMOIDS = frozenset({"HardSigmoid", "Sigmoid"})
SHIFTING = frozenset({"Add", "Div", "Mul", "Sub"})  # by one number for all: what comes before is as good a witness
MOVING = deciding.PASSING | {"Cast", "Slice"}
# Operators that choose, and which of their outputs says what. Comparisons and casts to integers are not among them:
# where they serve as activations, nothing would move any more if they were held
CHOICES = {"ArgMax": 0, "ArgMin": 0, "NonMaxSuppression": 0, "NonZero": 0, "TopK": 1}


@dataclass(frozen=True)
class Witnesses:
    """Values of a model's main graph.

    Attributes:
        outputs: for each output of the model that has any, the float values that it is made of, before what squashes
            them.
        thresholds: those of them that a sigmoid makes scores of, each by itself, to be compared with a bound.
        choices: values that choose (the token a decoder takes, the boxes that are kept). Two models are compared with
            the same ones: after another choice the outputs are others, however small the change was that led to it.
        keeps_few: whether some of many places are kept, as detectors do.
    """

    outputs: tuple[tuple[str, ...], ...]
    thresholds: frozenset[str]
    choices: tuple[str, ...]
    keeps_few: bool
    types: dict[str, int]

    @property
    def values(self) -> list[str]:
        """All float values, each once."""
        return list(dict.fromkeys(v for values in self.outputs for v in values))

    def shown(self, model: onnx.ModelProto, *, held: bool) -> None:
        """Make the values the model's outputs; with the choices as inputs where these are ``held``, else as outputs,
        too."""
        deciding.expose(model, self.values if held else [*self.values, *self.choices], self.types)
        if not held:
            return
        chosen = set(self.choices)
        for node in model.graph.node:
            for i, name in enumerate(node.output):
                if name in chosen:
                    node.output[i] = f"{name}.free"
        model.graph.input.extend(helper.make_tensor_value_info(c, self.types[c], None) for c in self.choices)


def find(model: onnx.ModelProto) -> Witnesses:
    """The witnesses of a model, whose weights are not read; types that shape inference does not find are left out."""
    types = deciding.value_types(model)
    makers = {name: node for node in model.graph.node for name in node.output if name}
    numbers = _numbers(model.graph)
    outputs: list[tuple[str, ...]] = []
    thresholds: set[str] = set()
    for output in model.graph.output:
        sources, squashed = _sources(output.name, makers, types, numbers)
        outputs.append(tuple(sources))
        thresholds.update(squashed.intersection(sources))
    returned = {o.name for o in model.graph.output}
    choices = [c for c in _choices(model.graph, types) if c not in returned]
    keeps_few = any(n.op_type in ("NonMaxSuppression", "TopK") for n in model.graph.node)
    return Witnesses(tuple(filter(None, outputs)), frozenset(thresholds), tuple(choices), keeps_few, types)


def _numbers(graph: onnx.GraphProto) -> set[str]:
    """Names of the constants of one element."""
    stored = {t.name for t in graph.initializer if math.prod(t.dims) == 1}
    constants = (n for n in graph.node if n.op_type == "Constant")
    return stored | {n.output[0] for n in constants if all(math.prod(a.t.dims) == 1 for a in n.attribute)}


def _sources(
    output: str, makers: dict[str, onnx.NodeProto], types: dict[str, int], numbers: set[str]
) -> tuple[list[str], set[str]]:
    """The float values that an output is made of, and all values on the way that go through a sigmoid.

    Args:
        numbers: constants of one element.
    """
    sources: list[str] = []
    squashed: set[str] = set()
    seen, queue = {output}, [output]
    for name in queue:
        node = makers.get(name)
        if node is None:
            continue
        read = node.input if node.op_type == "Concat" else node.input[:1]
        passes = node.op_type == "Concat" or node.op_type in SQUASHING | MOVING
        if node.op_type in SHIFTING and len(numbers.intersection(node.input)) == 1:
            read, passes = [n for n in node.input if n not in numbers], True
        passed = [n for n in read if passes and n in makers and types.get(n) in deciding.FLOATS]
        if name in squashed or node.op_type in SIGMOIDS:
            squashed.update(passed)
        queue += [n for n in dict.fromkeys(passed) if n not in seen]
        seen.update(passed)
        if not passed and types.get(name) in deciding.FLOATS:
            sources.append(name)
    return sources, squashed


def _choices(graph: onnx.GraphProto, types: dict[str, int]) -> Iterator[str]:
    """Values that choose among others."""
    for node in graph.node:
        place = CHOICES.get(node.op_type)
        if place is not None and place < len(node.output) and node.output[place] in types:
            yield node.output[place]
