"""What somebody asks to run, whatever the request was written in."""
