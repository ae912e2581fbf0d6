"""finetune: trains the weights that are left, then the centroids (arXiv 1510.00149, sections 2 and 3.3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from dc_compiler import ir
from dc_compiler.pass_manager import Context, PassReport
from dc_compiler.training.graph import trainable
from dc_compiler.training.loop import Trainer, TrainingPass


@dataclass(frozen=True)
class Finetune(TrainingPass):
    """Train on the samples of ``--data``. Biases and other small tensors are trained too.

    Pruned weights stay +0.0. Of clustered weights the codebook is trained, each entry with the summed gradients of its
    members; a grid has no codebook and stays as it is.

    Options:
        those of every pass that trains (TrainingPass), and
        what: ``weights`` trains what is not clustered; ``centroids`` trains the codebooks of what is, too.
    """

    name: ClassVar[str] = "finetune"
    forbids: ClassVar[frozenset[str]] = frozenset({"encoded"})
    positional: ClassVar[str | None] = "what"

    what: Literal["weights", "centroids"] = "weights"

    @property
    def needs(self) -> frozenset[str]:
        """Centroids exist once weights are clustered."""
        return frozenset({"clustered"}) if self.what == "centroids" else frozenset()

    @property
    def needs_samples(self) -> bool:
        """Always."""
        return True

    def run(self, program: ir.Program, context: Context) -> PassReport:
        records = [r for r in trainable(program) if self._trains(r)]
        trainer = Trainer(self, program, records, context)
        outcome = trainer.run()
        trainer.parameters.store()
        return PassReport(self.name, len(records), facts=outcome.facts())

    def _trains(self, record: ir.WeightRecord) -> bool:
        if record.clustered is None:
            return True
        return self.what == "centroids" and record.clustered.codebook is not None
