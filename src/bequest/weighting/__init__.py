"""FLOW: the losses of a pre-trained model turned into weights of samples or tokens."""
