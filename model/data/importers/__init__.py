"""Readers of public data sets' own files, and the writer that makes manifest folders of them."""
