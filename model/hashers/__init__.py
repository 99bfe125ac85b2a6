"""Image and text towers that share one Hamming space."""
