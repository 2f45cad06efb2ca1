"""Damaged input for everything that reads what it did not write itself.

``python -m tests.fuzz TARGET [SECONDS]`` fuzzes one target. Inputs that are worth keeping lie in
``corpus/TARGET``, what ever crashed one in ``regression/TARGET``; ``test_fuzz.py`` reads them all.
"""
