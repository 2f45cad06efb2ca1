"""Thin typed wrappers of what the kernel offers and tells, a file for each mechanism."""
