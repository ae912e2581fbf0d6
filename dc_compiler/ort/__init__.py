"""Everything that runs models in onnxruntime: sessions, samples, verification, benchmarks."""
