"""The documentation, and the check that keeps its tables true."""
