"""The HTTP service: the only package that joins the model and the index."""
