"""Backends behind the BinaryIndex protocol, one file each."""
