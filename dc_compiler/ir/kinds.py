"""Says what a stored tensor is: a weight, a constant that stays exact, or a weight that is quantized already."""

from __future__ import annotations

import numpy as np

from dc_compiler.ir.dtypes import find_element_type, is_compressible
from dc_compiler.ir.numeric import blocks
from dc_compiler.ir.patterns import find_pattern
from dc_compiler.ir.program import Program
from dc_compiler.ir.record import WeightRecord
from dc_compiler.ir.roles import Roles


def mark_exact(program: Program) -> None:
    """Set ``exact`` of every record: what follows a formula (:func:`find_pattern`), and what is not an operand of a
    product (:class:`Roles`): masks, anchors and tables that are added, compared or selected. A formula is not trained
    either. Vectors are only looked at for formulas; the weights in ``program.named`` are weights because the user says
    so.
    """
    roles = Roles.of(program.proto)
    for record, site in zip(program.records, program.sites, strict=True):
        kind = find_element_type(record.elem_type)
        if kind is not None and kind.packs:
            record.exact = f"{kind.name}, packed without loss"
        if not program.named.isdisjoint(record.names) or not _is_finite_float(record) or not site.can_hoist:
            continue
        record.exact = find_pattern(record.values)
        if record.exact is not None:
            record.trainable = False
        elif not record.is_vector:
            record.exact = roles.obstacle(site.value_name)


def quantized_note(program: Program) -> str | None:
    """What to tell about weights that are integers or 8-bit floats already, where there are any."""
    kinds = [find_element_type(r.elem_type) for r in program.records]
    if not any(k is not None and k.quantizes for k in kinds):
        return None
    roles = Roles.of(program.proto)
    quantized = weights = 0
    types = set()
    for record, site, kind in zip(program.records, program.sites, kinds, strict=True):
        if kind is None:
            continue
        if not kind.quantizes:
            weights += record.nbytes if kind.is_compressible else 0
        elif record.size and roles.obstacle(site.value_name) is None:
            size = (record.size * kind.bits + 7) // 8
            quantized, weights = quantized + size, weights + size
            types.add(kind.name)
    if not quantized:
        return None
    return (
        f"already quantized: {quantized:,} of {weights:,} weight bytes are {', '.join(sorted(types))}, which are "
        "neither pruned nor clustered, only packed without loss; compiling the float model gives a smaller file"
    )


def _is_finite_float(record: WeightRecord) -> bool:
    flat = record.values.reshape(-1)
    is_float = is_compressible(record.elem_type) and record.size > 0
    return is_float and all(np.isfinite(flat[s]).all() for s in blocks(record.size))
