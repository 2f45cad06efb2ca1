"""One reader for each source: text to subjects. Nothing that is read is trusted or executed."""
