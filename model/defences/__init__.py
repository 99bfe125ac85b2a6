"""Defences as recipes of named loss terms."""
