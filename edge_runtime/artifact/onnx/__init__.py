"""What an ONNX file and the small files beside it say, read with the standard library alone."""
