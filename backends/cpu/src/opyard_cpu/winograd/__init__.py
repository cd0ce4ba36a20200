"""Convolutions of 3x3 by Winograd's minimal filtering, between channels-last images."""
