"""A hostile program in plain Python: it needs nothing but the standard library."""
