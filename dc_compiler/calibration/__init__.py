"""What samples say about weights: the inputs that each multiplies, how far a change moves the outputs."""
