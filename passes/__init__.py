"""The passes that ship with dcc, one a file; found through the entry points ``dc_compiler.passes``."""
