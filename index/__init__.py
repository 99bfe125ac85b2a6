"""Binary codes, exact order, index backends and generations (the NumPy side)."""
