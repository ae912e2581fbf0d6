"""Training inside ONNX: gradients of a graph, the loop, its optimizers and checkpoints."""
