"""LAWA and its relatives: averages of checkpoints, live or afterwards."""
