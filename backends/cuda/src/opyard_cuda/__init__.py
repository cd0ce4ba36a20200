"""CUDA devices and kernels for opyard, through CuPy. CuPy is imported when a device is opened, never before."""
