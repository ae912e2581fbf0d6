"""What work on one record found out, in a form that can travel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dc_compiler import ir


@dataclass(frozen=True)
class Update:
    """What changes about a record; None leaves a part as it is.

    Attributes:
        reason: why the weight is left alone from now on; nothing else is looked at then.
        mask: bool, shape of the weight; elements that are False become +0.0, or are so in ``values``.
        clustered: indices with a codebook or grid; the dense values become those it stands for.
        values: new dense values, same shape and dtype; only where ``clustered`` does not give them.
        frame: the packed weight.
        smaller_frames: others, each smaller than the one before and longer to decode, of which the pass decides when it
            knows all weights.
    """

    reason: str | None = None
    mask: NDArray[np.bool_] | None = None
    clustered: ir.Clustered | None = None
    values: NDArray[Any] | None = None
    frame: bytes | None = None
    smaller_frames: tuple[bytes, ...] = ()

    @property
    def changes(self) -> bool:
        """Whether anything was found out, but a reason to leave the weight alone."""
        parts = (self.mask, self.clustered, self.values, self.frame)
        return self.reason is None and any(part is not None for part in parts)

    def apply(self, record: ir.WeightRecord) -> None:
        """Write it into the record. Arrays of the record are replaced, never changed in place."""
        if self.reason is not None:
            record.leave_alone(self.reason)
            return
        values = self._dense(record)
        if values is not None:
            ir.add_change(record, values)
        if self.mask is not None:
            record.mask = self.mask
        if self.clustered is not None:
            record.clustered = self.clustered
        if self.frame is not None:
            record.frame = self.frame

    def _dense(self, record: ir.WeightRecord) -> NDArray[Any] | None:
        if self.clustered is not None:
            return ir.rebuild(self.clustered, record)
        if self.mask is None or self.values is not None:
            return self.values
        flat = record.values.reshape(-1)
        kept: NDArray[Any] = flat.view(ir.element_type(record.elem_type).bit_pattern) * self.mask.reshape(-1)
        return kept.view(flat.dtype).reshape(record.shape)
