"""Training by several processes: rows of tables sharded, batches split, the same mathematics as in one process."""
