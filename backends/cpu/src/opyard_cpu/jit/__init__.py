"""Kernels that are compiled on this machine by LLVM, through llvmlite: no compiler has to be installed."""
