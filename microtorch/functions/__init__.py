"""Differentiable functions, a file a kind, attached to Tensor as methods and operators."""
