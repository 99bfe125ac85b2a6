"""A small client of a hashguard service."""
