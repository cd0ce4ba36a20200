"""The model suite: well-known networks with random weights, built by functions, so that nothing is downloaded."""
