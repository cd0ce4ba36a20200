"""What an NVIDIA GPU does with this package, measured and held against its goals: ``python -m opyard_cuda.selftest``."""
