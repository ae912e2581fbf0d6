"""Measures of outputs against labels: accuracy, squared error, scikit-learn's scorers, a function of the user's."""

from __future__ import annotations

import difflib
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dc_compiler.errors import DataError, DccError, InvalidArgumentError, ModelError
from dc_compiler.ort import data
from dc_compiler.ort.sessions import short

Array = np.ndarray


@dataclass(frozen=True)
class Metric:
    """A measure: ``function`` takes labels and the first output over all samples [n, ...], ``of_classes`` class numbers
    as labels, if not values of each class."""

    name: str
    function: Callable[[Array, Array], float]
    of_classes: bool = False

    def __call__(self, labels: Array, outputs: Sequence[Any]) -> float:
        """The measure of the first output of every feed.

        Raises:
            DataError: it does not fit these labels and outputs.
        """
        whole = _joined(outputs)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # scikit-learn's, of figures that it then gives as nan
                value = float(self.function(labels, whole))
        except DccError:
            raise
        except (Exception, SystemExit) as e:  # scikit-learn's and those of the user's own code
            reason = " ".join(str(e).split())[:200]
            raise DataError(f"{self._unfit(labels, whole)}: {type(e).__name__}: {reason}") from None
        if math.isnan(value):
            raise DataError(f"{self._unfit(labels, whole)}: it is not a number; are all classes among the labels?")
        return value

    def answers(self, outputs: Sequence[Any]) -> Array:
        """What the first output of every feed says, as labels for another model: its values, or the classes chosen.

        Raises:
            DataError: feeds have outputs of different shapes.
        """
        whole = _joined(outputs)
        if not self.of_classes:
            return whole
        wide = whole.reshape(len(whole), *(d for d in whole.shape[1:] if d != 1))
        return np.asarray(wide.argmax(-1) if wide.ndim > 1 else _says_yes(wide))

    def _unfit(self, labels: Array, outputs: Array) -> str:
        shapes = f"labels of shape {list(labels.shape)} and outputs of shape {list(outputs.shape)}"
        return f"metric '{self.name}' cannot be taken of {shapes}"


@dataclass(frozen=True)
class Scores:
    """A metric of the original and of the compiled model; without labels, against the original's own answers."""

    metric: str
    before: float
    after: float
    has_labels: bool = True


class Scorer:
    """A metric of labels and the first output of every feed, the default one for what the labels are where none is
    named; ``name`` is known after the first call.

    Args:
        larger_is_better: takes, instead of a mean squared error, what it leaves of the labels' variance.
    """

    def __init__(self, metric: Metric | None, *, larger_is_better: bool = False) -> None:
        self._metric, self._larger_is_better = metric, larger_is_better
        self.name = "" if metric is None else metric.name

    def __call__(self, labels: Array, outputs: Sequence[Any]) -> float:
        """The measure.

        Raises:
            DataError: it does not fit these labels and outputs.
        """
        chosen = self._metric or default_metric(labels, outputs)
        self.name = chosen.name
        value = chosen(labels, outputs)
        if self._larger_is_better and chosen.function is mean_squared_error:
            return -value / (float(np.var(labels)) or 1.0)
        return value

    def answers(self, outputs: Sequence[Any]) -> Array:
        """What stands for labels where there are none: the original's own answers; a metric must be named.

        Raises:
            DataError: feeds have outputs of different shapes.
        """
        assert self._metric is not None  # whoever has no labels has named a metric
        return self._metric.answers(outputs)


def make_metric(text: str) -> Metric:
    """The metric called so: one of scikit-learn's scorers, or ``module:function``, called with (labels, outputs).

    Raises:
        InvalidArgumentError: there is none.
    """
    if ":" in text:
        try:
            return Metric(text, data.import_function(text, "--metric"))
        except DataError as e:
            raise InvalidArgumentError(str(e)) from None
    from sklearn.metrics import get_scorer, get_scorer_names  # imported late: it takes a second

    names = get_scorer_names()
    if text not in names:
        near = difflib.get_close_matches(text, names, 3)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise InvalidArgumentError(f"metric '{text}' is none of scikit-learn's scorers, nor module:function{hint}")
    scorer = get_scorer(text)
    of_classes = not _compares_values(scorer)
    return Metric(text, lambda labels, outputs: _score(text, scorer, labels, outputs), of_classes)


def check(metric: Metric, session: Any, given: data.Dataset) -> None:
    """Take the metric of the original, so that one that does not fit is refused before any work.

    Args:
        session: of the original. given: samples, with labels or without.

    Raises:
        DataError: it does not fit. ModelError: the original does not run on the samples.
    """
    first = session.get_outputs()[0].name
    try:
        outputs = [session.run([first], feed)[0] for feed in given.feeds]
    except Exception as e:  # onnxruntime's exceptions share no base class
        raise ModelError(f"the original does not run on the inputs: {short(e)}") from None
    metric(metric.answers(outputs) if given.labels is None else given.labels, outputs)


def compare(metric: Metric | None, labels: Array | None, before: Sequence[Any], after: Sequence[Any]) -> Scores:
    """A metric of both models' first output, feed by feed.

    Args:
        metric: None takes the default one for the labels. labels: None takes the first model's answers.

    Raises:
        DataError: it does not fit these labels and outputs.
    """
    scorer = Scorer(metric)
    wanted = scorer.answers(before) if labels is None else labels
    first, second = scorer(wanted, before), scorer(wanted, after)
    return Scores(scorer.name, first, second, labels is not None)


def default_metric(labels: Array, outputs: Sequence[Any]) -> Metric:
    """``accuracy`` for class numbers, ``mean squared error`` for values."""
    joined = _joined(outputs)
    is_values = data.fit_labels(labels, joined.shape).dtype.kind == "f" and not _are_classes(labels, joined)
    return Metric("mean squared error", mean_squared_error) if is_values else Metric("accuracy", accuracy)


def accuracy(labels: Array, outputs: Array) -> float:
    """Top-1 accuracy of logits [n, ..., classes], or of the class numbers that a model gives itself [n, ...], against
    class numbers [n, ...].

    Raises:
        DataError: the labels do not fit.
    """
    if _are_classes(labels, outputs):
        return float(np.mean(data.fit_labels(labels, outputs.shape) == outputs))
    wanted = data.fit_labels(labels, outputs.shape)
    return float(np.mean(outputs.reshape(*wanted.shape, -1).argmax(-1) == wanted))


def _are_classes(labels: Array, outputs: Array) -> bool:
    """Whether both are class numbers, one for one."""
    return labels.dtype.kind in "iub" and outputs.dtype.kind in "iub" and labels.size == outputs.size


@np.errstate(over="ignore", invalid="ignore")
def mean_squared_error(labels: Array, outputs: Array) -> float:
    """Mean over all elements of the squared difference between outputs [n, ...] and the values wanted.

    Raises:
        DataError: the labels do not fit.
    """
    return float(np.square(outputs.astype(np.float64) - data.fit_labels(labels, outputs.shape)).mean())


def _joined(outputs: Sequence[Any]) -> Array:
    """One output over all feeds, [n, ...]."""
    if any(not isinstance(o, np.ndarray) or o.ndim < 1 for o in outputs):
        raise DataError("the first output has no axis of samples, so labels cannot be compared with it")
    try:
        return np.concatenate(outputs)
    except ValueError:
        raise DataError("the first output has a different shape for each feed, so labels cannot be compared") from None


def _score(name: str, scorer: Any, labels: Array, outputs: Array) -> float:
    """A scorer's value for outputs that a model has computed already."""
    fitted = data.fit_labels(labels, outputs.shape)
    of_values = _compares_values(scorer)
    if fitted.dtype.kind == "f":  # labels of the output's own shape
        columns = outputs.reshape(len(outputs), -1).astype(np.float64)
        wanted = fitted.reshape(columns.shape)
        is_binary = labels.dtype.kind in "iub" and bool(np.isin(labels, (0, 1)).all()) and not of_values
        return (
            _of_scores(scorer, wanted.astype(np.int64), columns) if is_binary else _of_values(scorer, wanted, columns)
        )
    if of_values:
        raise DataError(f"metric '{name}' compares values, but the labels are class numbers; give them as floats")
    logits = outputs.reshape(*fitted.shape, -1).astype(np.float64)
    return _of_classes(scorer, fitted.ravel(), logits.reshape(-1, logits.shape[-1]))


def _compares_values(scorer: Any) -> bool:
    return "regression" in scorer._score_func.__module__


def _says_yes(scores: Array) -> Array:
    """Which of some logits or probabilities mean yes, as 0 or 1."""
    is_probability = bool((scores >= 0).all() and (scores <= 1).all())
    return (scores >= 0.5 if is_probability else scores >= 0).astype(np.int64)


def _of_values(scorer: Any, wanted: Array, values: Array) -> float:
    from sklearn.base import BaseEstimator, RegressorMixin

    class Answers(RegressorMixin, BaseEstimator):  # type: ignore[misc]
        def predict(self, given: Array) -> Array:
            return given

    one = values.shape[1] == 1
    return float(scorer(Answers(), values.ravel() if one else values, wanted.ravel() if one else wanted))


def _of_classes(scorer: Any, wanted: Array, logits: Array) -> float:
    """Class numbers [n] against logits or probabilities [n, classes]."""
    from sklearn.base import BaseEstimator, ClassifierMixin

    class Answers(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
        classes_ = np.arange(logits.shape[1])

        def predict(self, given: Array) -> Array:
            return np.asarray(given.argmax(1))

        def predict_proba(self, given: Array) -> Array:
            return _probabilities(given)

        def decision_function(self, given: Array) -> Array:
            return given if given.shape[1] > 2 else given[:, 1] - given[:, 0]

    return float(scorer(Answers(), logits, wanted))


def _of_scores(scorer: Any, wanted: Array, scores: Array) -> float:
    """Yes or no [n, columns] against a logit or probability for each."""
    from sklearn.base import BaseEstimator, ClassifierMixin

    one = scores.shape[1] == 1
    is_probability = bool((scores >= 0).all() and (scores <= 1).all())

    class Answers(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
        classes_ = np.arange(2) if one else np.eye(scores.shape[1], dtype=np.int64)

        def predict(self, given: Array) -> Array:
            yes = _says_yes(given)
            return yes.ravel() if one else yes

        def predict_proba(self, given: Array) -> Array:
            yes = given if is_probability else 1 / (1 + np.exp(-given))
            return np.hstack([1 - yes, yes]) if one else np.asarray(yes)

        def decision_function(self, given: Array) -> Array:
            return given.ravel() if one else given

    return float(scorer(Answers(), scores, wanted.ravel() if one else wanted))


def _probabilities(logits: Array) -> Array:
    """Rows as probabilities: softmax, unless they are probabilities already."""
    sums = logits.sum(axis=1, keepdims=True)
    if (logits >= 0).all() and np.abs(sums - 1).max(initial=0) < 1e-3:
        return np.asarray(logits / sums)
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))
