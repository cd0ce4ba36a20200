"""Kernels on CuPy arrays. Each is a function of arrays and attributes; ``plugin.py`` says which op it computes."""
