"""Embedding methods: full tables and codes; each maps (B, S) ids to (B, S, D + 1) rows."""
