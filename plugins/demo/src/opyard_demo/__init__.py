"""The demo of opyard: a small network that classifies handwritten digits on the best registered kernels."""
