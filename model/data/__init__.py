"""Manifest folders, importers, the drawn sample set and text handling."""
