"""The decision service: Python and the host's answers stay warm, the front-end executes."""
