"""ONNX Runtime and OpenVINO as region compilers of the CPU backend."""
