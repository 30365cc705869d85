"""Real models and text for the demo, the tests and the benchmarks; see README.md."""
