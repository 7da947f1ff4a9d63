"""Checkpoint or shape to ONNX: the graph of a decoder, its levels, its blocks, its settings."""
