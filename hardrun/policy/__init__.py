"""Policies: their documents, how they are found, the engine that decides, and its explanation."""
