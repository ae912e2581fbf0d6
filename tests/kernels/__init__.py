"""Kernels against references in NumPy."""
