"""What passes do to tree ensembles: their nodes as arrays, and how these get smaller."""
