"""Per-token losses: the weighted linear cross-entropy and the one-pass engine."""
