"""Hashing models: data, hashers, training, artefacts and inference (the torch side)."""
