"""The papers' experiments at a scale that two cores can run."""
