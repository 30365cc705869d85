"""Files of models: read by name and byte range, written atomically, with their lineage."""
