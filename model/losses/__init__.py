"""Loss terms of hashing, each a small callable module."""
