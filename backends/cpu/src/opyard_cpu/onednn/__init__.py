"""Kernels on oneDNN's C API, bound through ctypes: no compiler is needed, and nothing is loaded before the first use."""
