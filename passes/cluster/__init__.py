"""cluster: replaces weights by codebook entries; one file a way of choosing them."""

from dc_compiler.passes.cluster.cluster import Cluster

__all__ = ["Cluster"]
