"""Use cases of the service; no web framework, no torch, no Faiss."""
