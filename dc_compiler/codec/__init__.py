"""The packed-weight format: FORMAT.md (normative) and a readable decoder of it."""
