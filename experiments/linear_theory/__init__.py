"""FLOW in linear regression, where everything can be computed (arXiv 2502.02797, section 7)."""
