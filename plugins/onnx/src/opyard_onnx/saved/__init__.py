"""Saved models: folders ``<model>/<version>/`` with ``graph.onnx``, ``weights.safetensors`` and ``manifest.json``.

The weights are the external data of the graph: its tensors name offsets in the safetensors file, so one file follows both
standards. The manifest has the SHA-256 of both, and the signature. A version is published whole by a rename, and never changes.
"""
