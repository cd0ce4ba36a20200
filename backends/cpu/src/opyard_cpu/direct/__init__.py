"""Convolutions as compiled loops over channels-last images: depthwise ones, and those of few channels."""
