"""What a model bears: curves of size and quality, weight by weight and of the whole file."""
