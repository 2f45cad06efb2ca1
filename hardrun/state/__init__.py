"""What outlives one process: which subordinate ids running sandboxes have."""
