"""One module for each revision of the catalog's schema."""
