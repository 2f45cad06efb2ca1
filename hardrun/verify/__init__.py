"""The posture of running processes, read from the kernel and compared with the Decision."""
