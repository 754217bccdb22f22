"""Codes in a Feast online store: how they are written, read back and served."""
