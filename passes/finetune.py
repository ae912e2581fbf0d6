"""finetune: trains the weights that are left, then the centroids (arXiv 1510.00149, sections 2 and 3.3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from dc_compiler import ir, training
from dc_compiler.pass_manager import Context, Pass, PassReport


@dataclass(frozen=True)
class Finetune(Pass):
    """Train on the samples of ``--data``. Biases and other small tensors are trained too.

    Pruned weights stay +0.0. Of clustered weights the codebook is trained, each entry with the summed gradients of its
    members; a grid has no codebook and stays as it is.

    Options:
        what: ``weights`` trains what is not clustered; ``centroids`` trains the codebooks of what is, too.
        epochs: passes over the training part of the data.
        lr: learning rate at the start; it falls to zero along half a cosine.
        loss: ``labels`` (cross-entropy), ``distill`` (the original model's outputs, no labels needed), ``mse`` (the
            same by squared error), ``auto`` (labels where there are any, else distill).
        optimizer: ``adam``, or ``sgd`` with momentum 0.9.
        batch: samples a step.
        validation: share of the samples that chooses the best epoch and is never trained on.
    """

    name: ClassVar[str] = "finetune"
    forbids: ClassVar[frozenset[str]] = frozenset({"encoded"})
    positional: ClassVar[str | None] = "what"

    what: Literal["weights", "centroids"] = "weights"
    epochs: float = 8.0
    lr: float = 1e-3
    loss: training.Loss = "auto"
    optimizer: training.Optimizer = "adam"
    batch: int = 64
    validation: float = 0.1

    def __post_init__(self) -> None:
        self.check(0 < self.epochs <= 10_000, "epochs", "give a number above 0")
        self.check(0 < self.lr < float("inf"), "lr", "give a number above 0")
        self.check(self.batch >= 1, "batch", "give 1 or more")
        self.check(0 < self.validation < 1, "validation", "give a share between 0 and 1")

    @property
    def needs(self) -> frozenset[str]:
        """Centroids exist once weights are clustered."""
        return frozenset({"clustered"}) if self.what == "centroids" else frozenset()

    def run(self, program: ir.Program, context: Context) -> PassReport:
        options = training.Options(self.epochs, self.lr, self.batch, self.loss, self.optimizer, self.validation)
        records = [r for r in training.trainable(program) if self._trains(r)]
        trainer = training.Trainer(self, program, records, context, options)
        outcome = trainer.run()
        trainer.parameters.store()
        return PassReport(self.name, len(records), facts=outcome.facts())

    def _trains(self, record: ir.WeightRecord) -> bool:
        if record.clustered is None:
            return True
        return self.what == "centroids" and record.clustered.codebook is not None
