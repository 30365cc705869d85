"""Does a model that inherits half of a bigger one's blocks beat the same shape from scratch?

python -m experiments.inheritance
"""
