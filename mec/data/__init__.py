"""Rows: readers, splits, counting, vocabularies, encoded shards, the synthetic generator."""
