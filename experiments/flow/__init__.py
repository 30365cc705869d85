"""FLOW and its rivals on SmolLM2-135M: what each learns of a mixed target, and what it forgets.

python -m experiments.flow
"""
