"""``hardrun demo``: a hostile script in a sandbox, and the same script without one."""
