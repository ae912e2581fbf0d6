"""What the passes work on: a Program, its records and sites, and quantized values."""

from dc_compiler.ir.channels import channel_layout
from dc_compiler.ir.dtypes import (
    ELEMENT_TYPES,
    ElementType,
    compute_dtype,
    element_type,
    element_type_of,
    find_element_type,
    is_compressible,
)
from dc_compiler.ir.excerpts import EXCERPT, MOST_EXCERPTS, excerpt, excerpts
from dc_compiler.ir.kinds import mark_exact, quantized_note
from dc_compiler.ir.numeric import BLOCK, blocks, exact_std, largest, ordered_sum
from dc_compiler.ir.patterns import find_pattern
from dc_compiler.ir.program import Program
from dc_compiler.ir.quantization import find_quantized, is_on_quantized
from dc_compiler.ir.quantized import (
    Clustered,
    Scales,
    as_codes,
    is_integer,
    log_step_values,
    nearest_log_step,
    without_unused,
)
from dc_compiler.ir.ranges import Range
from dc_compiler.ir.record import (
    DECODE,
    INT8,
    INT8_SCALE,
    SPARSE,
    SPARSE_INT8,
    Quantized,
    Use,
    WeightRecord,
    add_change,
    rebuild,
)
from dc_compiler.ir.roles import Roles
from dc_compiler.ir.site import (
    InitializerSite,
    Site,
    attribute,
    attribute_sites,
    constant_tensor,
    defined,
    find_uses,
    multiplies,
    readers,
    remove_sites,
    subgraphs,
    walk_graphs,
    weight_sites,
)

__all__ = [
    "BLOCK",
    "DECODE",
    "ELEMENT_TYPES",
    "EXCERPT",
    "INT8",
    "INT8_SCALE",
    "MOST_EXCERPTS",
    "SPARSE",
    "SPARSE_INT8",
    "Clustered",
    "ElementType",
    "InitializerSite",
    "Program",
    "Quantized",
    "Range",
    "Roles",
    "Scales",
    "Site",
    "Use",
    "WeightRecord",
    "add_change",
    "as_codes",
    "attribute",
    "attribute_sites",
    "blocks",
    "channel_layout",
    "compute_dtype",
    "constant_tensor",
    "defined",
    "element_type",
    "element_type_of",
    "exact_std",
    "excerpt",
    "excerpts",
    "find_element_type",
    "find_pattern",
    "find_quantized",
    "find_uses",
    "is_compressible",
    "is_integer",
    "is_on_quantized",
    "largest",
    "log_step_values",
    "mark_exact",
    "multiplies",
    "nearest_log_step",
    "ordered_sum",
    "quantized_note",
    "readers",
    "rebuild",
    "remove_sites",
    "subgraphs",
    "walk_graphs",
    "weight_sites",
    "without_unused",
]
