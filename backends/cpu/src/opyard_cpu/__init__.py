"""CPU kernels for opyard: NumPy on BLAS."""
