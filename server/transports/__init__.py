"""The transports: how frames reach the server and leave it."""
