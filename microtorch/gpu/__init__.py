"""Tensors on the GPU: the same rows, compiled for CUDA."""
