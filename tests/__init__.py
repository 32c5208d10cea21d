"""Tests are sentences, on a real database; they mirror the packages."""
