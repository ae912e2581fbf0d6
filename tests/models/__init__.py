"""Hand-built ONNX graphs covering the places weights can live in."""
