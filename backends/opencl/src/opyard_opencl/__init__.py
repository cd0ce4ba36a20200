"""OpenCL devices and kernels for opyard."""
