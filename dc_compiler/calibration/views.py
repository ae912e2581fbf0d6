"""A weight seen as the matrices that multiply rows of inputs, and back."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

Array = np.ndarray
Step = tuple[Literal["reshape", "transpose"], tuple[int, ...]]


@dataclass(frozen=True)
class View:
    """Reshapes and transpositions of a tensor of ``shape`` that end in matrices [g, o, k].

    Matrix ``g`` multiplies rows of ``k`` inputs; each of its ``o`` rows makes one output.
    """

    shape: tuple[int, ...]
    steps: tuple[Step, ...] = ()

    def reshape(self, *extents: int) -> View:
        """This view, reshaped; one extent may be -1."""
        size = math.prod(self.shape)
        known = math.prod(e for e in extents if e != -1)
        return View(self.shape, (*self.steps, ("reshape", tuple(size // known if e == -1 else e for e in extents))))

    def transpose(self, *axes: int) -> View:
        """This view with its axes in another order."""
        return View(self.shape, (*self.steps, ("transpose", axes)))

    @property
    def extents(self) -> tuple[int, ...]:
        """Extents after all steps."""
        return self._shapes()[-1]

    def apply(self, array: Array) -> Array:
        """The array of ``shape``, seen so; a view where NumPy can."""
        for kind, numbers in self.steps:
            array = array.reshape(numbers) if kind == "reshape" else array.transpose(numbers)
        return array

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    def put(self, target: Array, values: Array) -> None:
        """Write values [g, o, k] to their places in a flat array."""
        target[:] = self.restore(values).reshape(-1)

    def restore(self, array: Array) -> Array:
        """The array of ``shape`` that :meth:`apply` makes ``array`` of."""
        for (kind, numbers), before in zip(reversed(self.steps), reversed(self._shapes()[:-1]), strict=True):
            array = array.reshape(before) if kind == "reshape" else array.transpose(np.argsort(numbers))
        return array

    def _shapes(self) -> list[tuple[int, ...]]:
        found = [self.shape]
        for kind, numbers in self.steps:
            found.append(numbers if kind == "reshape" else tuple(found[-1][a] for a in numbers))
        return found


@dataclass(frozen=True, eq=False)
class Elements:
    """Some elements of a tensor, by their numbers in the flat tensor, as matrices: integers [g, o, k]."""

    numbers: Array

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Elements) and np.array_equal(self.numbers, other.numbers)

    def __hash__(self) -> int:
        return hash((self.numbers.shape, tuple(self.numbers.flat[:64])))

    @property
    def size(self) -> int:
        """Number of elements."""
        return self.numbers.size

    @property
    def extents(self) -> tuple[int, ...]:
        """Extents of the matrices."""
        return self.numbers.shape

    def apply(self, array: Array) -> Array:
        """These elements of the array."""
        return np.asarray(array.reshape(-1)[self.numbers])

    def put(self, target: Array, values: Array) -> None:
        """Write values [g, o, k] to their places in a flat array."""
        target[self.numbers] = values


Place = View | Elements


def split_inputs(view: View, parts: int) -> View:
    """A view [g, o, k] with the inputs in ``parts`` that are taken for independent: [g * parts, o, k / parts]."""
    groups, outputs, inputs = view.extents
    if parts == 1:
        return view
    cut = view.reshape(groups, outputs, parts, inputs // parts).transpose(0, 2, 1, 3)
    return cut.reshape(groups * parts, outputs, inputs // parts)


def fewest_parts(inputs: int, most: int) -> int | None:
    """The smallest number of equal parts with at most ``most`` inputs each; None where only tiny parts would do."""
    for parts in range(-(-inputs // most), 65):
        if inputs % parts == 0:
            return parts
    return None


def is_order(axes: Sequence[int], rank: int) -> bool:
    """Whether ``axes`` names every axis once."""
    return sorted(axes) == list(range(rank))
