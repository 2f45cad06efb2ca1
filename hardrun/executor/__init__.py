"""The program that enforces a plan, and the Python that starts it."""
