"""Passes in a row: what a pass is, where its work is done, their order, and what must hold after each."""
