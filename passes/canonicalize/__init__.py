"""canonicalize: a plainer graph that computes the same; one file a way of making it so."""

from dc_compiler.passes.canonicalize.canonicalize import Canonicalize

__all__ = ["Canonicalize"]
