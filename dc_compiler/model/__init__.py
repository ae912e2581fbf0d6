"""Model files: reading, taking apart into a Program, writing as a compiled model, and opening compiled models."""
