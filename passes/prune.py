"""prune: sets the smallest weights to +0.0 (magnitude pruning; Han et al. 2015, arXiv 1506.02626)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar, Literal, Self

import numpy as np

from dc_compiler import ir
from dc_compiler.errors import InvalidArgumentError
from dc_compiler.pass_manager import Context, PassReport, Task, Update
from dc_compiler.passes.cluster.vectors import change_vector, vectors_of
from dc_compiler.passes.surgeon import Removal, remove
from dc_compiler.passes.trees.steps import prune_trees
from dc_compiler.training.graph import trainable
from dc_compiler.training.loop import Trainer, TrainingPass
from dc_compiler.training.optimizers import Adam, round_start

# Kept share when none is asked for: what the paper keeps of AlexNet's middle convolutions and of its large
# fully-connected layers (arXiv 1510.00149, Table 4)
CONV_DENSITY, OTHER_DENSITY = 0.36, 0.10


# Share of a gradual schedule in which weights are removed; in the rest the survivors settle
REMOVING = 0.7
REMOVALS = {"gradual": 30, "iterative": 5}  # by default

# The share to keep for now, from the share to keep in the end
Share = Callable[[float], float]


@dataclass(frozen=True)
class Prune(TrainingPass):
    """Keep the weights of largest magnitude.

    Options:
        density: kept share of a weight, in (0, 1]. By default 0.36 for convolutions and 0.10 otherwise.
        scope: ``layer`` applies the density to each weight alone, ``global`` to all of them together: one threshold,
            below which everything goes.
        threshold: the paper's criterion instead of a density: keep ``|w| > threshold * std(w)`` of each weight.
        criterion: ``magnitude``, or ``obd``: Optimal Brain Damage (LeCun et al. 1990), which keeps the weights of
            largest ``w**2 h``, with the mean squared gradient on ``--data`` for the diagonal h of the Hessian; or
            ``obs``: Optimal Brain Surgeon on the inputs in ``--data``, one layer at a time, whose weights make up for
            those that go (:mod:`dc_compiler.passes.surgeon`); a weight whose inputs are not known as one Gram matrix is
            pruned by magnitude.
        schedule: ``once``; or one of two that train on ``--data`` meanwhile (as ``finetune`` does) and remove weights
            in ``steps`` steps.
            ``gradual``: after a removal the kept share is ``density + (1 - density) (1 - step/steps)**3`` (Zhu & Gupta,
            arXiv 1710.01878); one learning-rate cosine spans the training, whose last 30 % leaves the density alone.
            ``iterative``: prune, retrain, prune again, as the paper does (section 3): as many rounds as steps, each of
            which first cuts the kept share to ``density**(round/steps)`` and then trains ``epochs/steps`` epochs with a
            learning-rate cosine of its own; the weights and the optimizer's state go on.
            Both end at about the same accuracy (LeNet-300-100 at 8, 3 and 1.5 % in 5 epochs). ``gradual`` needs no good
            number of steps and knows *obd*; ``iterative`` follows the paper, and is for long trainings, in which every
            density may settle; few rounds (3) are best at low densities.
        steps: number of removals; by default 30 for *gradual*, 5 for *iterative*.
        trees: prune tree ensembles instead of weights (``prune(trees)``): leaves of equal outcome are merged and
            branches removed that no value can reach, which changes no prediction and takes no data.
        drop: with ``trees`` and labelled ``--data``: also prune all trees at the largest price of a leaf (minimal
            cost-complexity pruning, Breiman et al. 1984) and leave out those trees that bring least
            (:mod:`dc_compiler.passes.trees.complexity`), as far as the metric on the validation part falls by no more
            points than this. Without labels, points are hundredths of the samples whose answer changes.
        those of every pass that trains (TrainingPass): for both, and for *obd*.

    ``--set`` may give weights their own density, scope or threshold. One with its own density or threshold is pruned to
    that alone, whatever the scope; the pass's density with ``scope=global`` holds over the others together.

    Zeros of the input that are kept count as kept. Among equal magnitudes the first in memory order are kept, so the
    number kept is exactly ``round(density * n)``, at least 1.
    """

    name: ClassVar[str] = "prune"
    establishes: ClassVar[frozenset[str]] = frozenset({"pruned"})
    forbids: ClassVar[frozenset[str]] = frozenset({"clustered", "encoded"})
    positional: ClassVar[str | None] = "density"
    per_weight: ClassVar[frozenset[str]] = frozenset({"density", "scope", "threshold"})

    density: float | None = None
    scope: Literal["layer", "global"] = "layer"
    threshold: float | None = None
    criterion: Literal["magnitude", "obd", "obs"] = "magnitude"
    schedule: Literal["once", "gradual", "iterative"] = "once"
    steps: int | None = None
    trees: bool = False
    drop: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check(self.density is None or 0 < self.density <= 1, "density", "give a number in (0, 1]")
        self.check(self.threshold is None or 0 <= self.threshold < float("inf"), "threshold", "give 0 or more")
        self.check(self.density is None or self.threshold is None, "threshold", "give either density or threshold")
        self.check(self.scope == "layer" or self.density is not None, "scope", "give a density with it")
        with_density = self.threshold is None
        self.check(self.schedule == "once" or with_density, "schedule", "a threshold is applied once")
        self.check(self.criterion == "magnitude" or with_density, "criterion", "a threshold is one of magnitudes")
        self.check(self.drop is None or self.trees, "drop", "it is for trees, as in prune(trees,drop=0.5)")
        self.check(self.drop is None or 0 < self.drop <= 100, "drop", "give points above 0, at most 100")
        self.check(not self.trees or self.density is None, "density", "trees have none")
        self.check(self.steps is None or self.steps >= 1, "steps", "give 1 or more")
        self.check(self.schedule == "once" or self.epochs > 0, "epochs", f"the {self.schedule} schedule needs some")
        self.check(self.schedule == "once" or self.optimizer == "adam", "optimizer", "prune trains with adam")
        is_whole = self.criterion != "obs" or (self.schedule == "once" and self.scope == "layer")
        self.check(is_whole, "criterion", "obs prunes once, each layer to a density of its own")
        has_gradients = self.criterion != "obd" or self.schedule != "iterative"
        self.check(has_gradients, "criterion", "the iterative schedule prunes before any gradient is known")

    @property
    def needs_samples(self) -> bool:
        """Where it trains or measures gradients."""
        return self.schedule != "once" or self.criterion == "obd"

    @property
    def calibrates(self) -> bool:
        """Where it looks at inputs."""
        return self.criterion == "obs" or self.drop is not None

    def overridden(self, options: Mapping[str, str]) -> Self:
        """A weight's own density takes the place of the pass's threshold and the other way round, and leaves the global
        scope."""
        own = {k: v for k, v in options.items() if k in self.per_weight}
        base = self
        if "density" in own or "threshold" in own:
            if own.get("scope") == "global":
                raise InvalidArgumentError(
                    "--set: a weight with its own density or threshold is pruned to that alone; leave out scope=global"
                )
            base = replace(self, density=None, threshold=None, scope="layer")
        return base.with_options(own)

    def run(self, program: ir.Program, context: Context) -> PassReport:
        if self.trees:
            return prune_trees(program, context, self.drop)
        records = program.weights()
        if self.needs_samples:  # weights of subgraphs have no gradients
            with_gradients = {id(r) for r in trainable(program)}
            records = [r for r in records if id(r) in with_gradients]
        options = [self.for_record(r, context) for r in records]
        facts: dict[str, Any] = {}
        if self.schedule != "once":
            facts, changed = self._while_training(program, records, options, context)
        else:
            changed = [u.changes for u in self._once(program, records, options, context)]
        kept = sum(r.size if r.mask is None else int(np.count_nonzero(r.mask)) for r in records)
        total = sum(r.size for r in records)
        facts["density"] = kept / total if total else 1.0
        if not any(changed) and any(o._removes for o in (self, *options)):
            program.notes.append(_nothing_pruned(program, records))
        return PassReport(self.name, sum(changed), facts=facts)

    @property
    def _removes(self) -> bool:
        """Whether these options ask for anything to be removed."""
        return (self.density or 0) < 1 if self.threshold is None else self.threshold > 0

    def _once(
        self, program: ir.Program, records: Sequence[ir.WeightRecord], options: Sequence[Self], context: Context
    ) -> list[Update]:
        if self.criterion != "obd":
            keeps = _keeps(options, records, [r.values for r in records], _all_of_it)
            if self.criterion == "obs":
                return self._by_surgeon(program, records, keeps, context)
            return context.apply(self.name, prune_record, list(map(Task, records, keeps)))
        scores = self._obd_once(program, records, context)  # stay here: they are as large as the weights
        keeps = _keeps(options, records, scores, _all_of_it)
        updates = context.each(self.name, range(len(records)), lambda i: _update(records[i], keeps[i].mask(scores[i])))
        for record, update in zip(records, updates, strict=True):
            update.apply(record)
        return updates

    def _by_surgeon(
        self, program: ir.Program, records: Sequence[ir.WeightRecord], keeps: Sequence[Keep], context: Context
    ) -> list[Update]:
        grams = context.calibrated().grams(program)
        vectors = vectors_of(program, grams)
        whole = {n: vectors.centred(n, g)[0] for n, g in grams.items() if len(g) == 1}
        sizes = {n: g.place.size for n, g in whole.items()}
        found: dict[int, Update] = {}
        known = [i for i, r in enumerate(records) if sizes.get(r.name) == r.size and r.mask is None]
        removals = [Task(records[i], Removal(keeps[i].kept_of(records[i]), whole[records[i].name])) for i in known]
        found |= dict(zip(known, context.apply(self.name, remove, removals), strict=True))
        others = [i for i in range(len(records)) if i not in found]
        plain = context.apply(self.name, prune_record, [Task(records[i], keeps[i]) for i in others])
        found |= dict(zip(others, plain, strict=True))
        context.apply(self.name, change_vector, vectors.tasks(program, shorten=False))
        return [found[i] for i in range(len(records))]

    def _trainer(self, program: ir.Program, context: Context) -> Trainer:
        return Trainer(self, program, [r for r in trainable(program) if r.clustered is None], context)

    def _while_training(
        self, program: ir.Program, records: Sequence[ir.WeightRecord], options: Sequence[Self], context: Context
    ) -> tuple[dict[str, Any], list[bool]]:
        trainer = self._trainer(program, context)
        shares = self._shares(trainer.steps)
        silent = replace(context, progress=None)  # the training reports its own progress

        def remove(step: int) -> None:
            if step not in shares:
                return
            scores = trainer.parameters.scores(records, self._saliency(trainer))
            keeps = _keeps(options, records, scores, shares[step])
            masks = silent.each(self.name, range(len(records)), lambda i: keeps[i].mask(scores[i]))
            trainer.prune({r.name: _within(m, r) for r, m in zip(records, masks, strict=True)})

        rounds = self._removals if self.schedule == "iterative" else 1
        settled = max(1, *shares)  # what was there before the first step is not pruned yet
        outcome = trainer.run(before_step=remove, settled=settled, rounds=rounds)
        trainer.parameters.store()
        return outcome.facts(), [r.mask is not None for r in records]

    @property
    def _removals(self) -> int:
        return REMOVALS[self.schedule] if self.steps is None else self.steps

    def _shares(self, steps: int) -> dict[int, Share]:
        """What is kept from which of ``steps`` training steps on, at least 2."""
        count = self._removals
        if self.schedule == "iterative":
            return {round_start(i, steps, count): partial(_geometric, (i + 1) / count) for i in range(count)}
        every = max(1, int(steps * REMOVING) // count)
        last = min(count * every, steps - 1)
        return {step: partial(_cubic, step / last) for step in (*range(every, last, every), last)}

    def _saliency(self, trainer: Trainer) -> np.ndarray:
        """How much each parameter matters, float32 [p]. Adam's second moment is the mean squared gradient.

        Never zero, which is the score of what is pruned: removed weights stay removed.
        """
        theta = trainer.parameters.theta
        assert isinstance(trainer.optimizer, Adam)
        saliency = np.abs(theta) if self.criterion == "magnitude" else theta**2 * trainer.optimizer.square
        return np.asarray(np.maximum(saliency, np.finfo(np.float32).tiny))

    def _obd_once(self, program: ir.Program, records: Sequence[ir.WeightRecord], context: Context) -> list[np.ndarray]:
        trainer = self._trainer(program, context)
        trainer.run(still=True)
        return trainer.parameters.scores(records, self._saliency(trainer))

    def _keep_count(self, record: ir.WeightRecord, share: Share) -> int:
        density = self.density
        if density is None:
            is_conv = any(u.op_type.startswith("Conv") for u in record.uses)
            density = CONV_DENSITY if is_conv else OTHER_DENSITY
        return max(1, round(share(density) * record.size))


@dataclass(frozen=True)
class Keep:
    """Which elements of a weight stay: ``count`` of them, or those above ``threshold`` standard deviations."""

    count: int = 0
    threshold: float | None = None

    def kept_of(self, record: ir.WeightRecord) -> int:
        """How many elements of a record stay."""
        return self.count if self.threshold is None else int(np.count_nonzero(self.mask(record.values)))

    def mask(self, scores: np.ndarray) -> np.ndarray:
        """bool [n]; elements of larger magnitude stay."""
        flat = scores.reshape(-1)
        return ir.largest(flat, self.count) if self.threshold is None else _above_threshold(flat, self.threshold)


def prune_record(record: ir.WeightRecord, keep: Keep, seed: int) -> Update:
    """The mask of a weight by the magnitude of its elements."""
    return _update(record, keep.mask(record.values))


def _update(record: ir.WeightRecord, mask: np.ndarray) -> Update:
    return Update() if mask.all() else Update(mask=mask.reshape(record.shape))


def _nothing_pruned(program: ir.Program, records: Sequence[ir.WeightRecord]) -> str:
    """What to tell when no weight lost anything."""
    if records:
        return "prune: nothing was pruned: every weight is too small for that, or is as sparse already"
    others = [r.exact for r in program.eligible() if r.exact is not None]
    why = f"; what there is stays exactly as it is ({others[0]})" if others else ""
    return f"prune: nothing was pruned: the model has no float weights that may be{why}"


def _all_of_it(density: float) -> float:
    """The share of a schedule that removes everything at once."""
    return density


def _cubic(progress: float, density: float) -> float:
    """Share kept after ``progress`` (0 to 1) of a gradual removal down to ``density``."""
    removed = 1 - (1 - progress) ** 3
    return density * removed + (1 - removed)


def _geometric(progress: float, density: float) -> float:
    """Share kept after ``progress`` (0 to 1) of an iterative removal down to ``density``."""
    return float(density**progress)


def _within(mask: np.ndarray, record: ir.WeightRecord) -> np.ndarray:
    """The mask without what the record has lost already: more than is left may be asked for."""
    return mask if record.mask is None else mask & record.mask.reshape(-1)


def _keeps(
    options: Sequence[Prune], records: Sequence[ir.WeightRecord], scores: Sequence[np.ndarray], share: Share
) -> list[Keep]:
    """What every record keeps, one of them each.

    Args:
        scores: one array a record; elements of larger magnitude stay.
    """
    together = [i for i, o in enumerate(options) if o.scope == "global"]
    counts: dict[int, int] = {}
    if together:
        density = options[together[0]].density
        assert density is not None
        chosen = [scores[i] for i in together]
        counts = dict(zip(together, _global_counts(chosen, share(density)), strict=True))

    def keep(i: int) -> Keep:
        if options[i].threshold is not None:
            return Keep(threshold=options[i].threshold)
        return Keep(counts[i] if i in counts else options[i]._keep_count(records[i], share))

    return [keep(i) for i in range(len(records))]


def _global_counts(scores: Sequence[np.ndarray], density: float) -> list[int]:
    """Weights each record keeps when ``density`` holds over all of them: [len(scores)]."""
    magnitudes = np.concatenate([np.abs(s.reshape(-1).astype(np.float32)) for s in scores])
    keep = max(1, round(density * magnitudes.size))
    cut = np.partition(magnitudes, magnitudes.size - keep)[magnitudes.size - keep]
    ends = np.cumsum([s.size for s in scores])
    counts = [int(np.count_nonzero(part > cut)) for part in np.split(magnitudes, ends[:-1])]
    spare = keep - sum(counts)
    for i, part in enumerate(np.split(magnitudes, ends[:-1])):
        ties = min(spare, int(np.count_nonzero(part == cut)))
        counts[i] += ties
        spare -= ties
    return counts


def _above_threshold(flat: np.ndarray, quality: float) -> np.ndarray:
    std = float(ir.exact_std(flat))
    return np.asarray(np.abs(flat.astype(np.float64)) > quality * std)
