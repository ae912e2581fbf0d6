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
        if record.coder is not None:  # exact for a reason of its own
            continue
        kind = find_element_type(record.elem_type)
        if kind is not None and record.quantized is not None:
            record.exact = f"{kind.name}, already quantized"
        elif kind is not None and kind.packs:
            record.exact = f"{kind.name}, packed without loss"
        if not program.named.isdisjoint(record.names) or not _is_finite_float(record) or not site.can_hoist:
            continue
        record.exact = find_pattern(record.values)
        if record.exact is not None:
            record.trainable = False
        elif not record.is_vector:
            record.exact = roles.obstacle(site.value_name)


def quantized_note(program: Program) -> str | None:
    """What to tell about weights that are integers or short floats already, where there are any."""
    quantized = [r for r in program.records if r.quantized is not None and r.quantized.is_weight]
    if not quantized:
        return None
    floats = sum(r.nbytes for r in program.records if is_compressible(r.elem_type))
    size = sum(r.nbytes for r in quantized)
    types = sorted({kind.name for r in quantized if (kind := find_element_type(r.elem_type)) is not None})
    named = ", ".join(types)
    return (
        f"already quantized: {size:,} of {size + floats:,} weight bytes are {named}, packed without loss but "
        "where cluster(grid,integers=true) makes their grids coarser; compiling the float model gives a smaller file"
    )


def _is_finite_float(record: WeightRecord) -> bool:
    flat = record.values.reshape(-1)
    is_float = is_compressible(record.elem_type) and record.size > 0
    return is_float and all(np.isfinite(flat[s]).all() for s in blocks(record.size))
