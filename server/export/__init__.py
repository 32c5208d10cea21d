"""Sessions written out to be read by people."""
