"""What this host and this user can enforce."""
