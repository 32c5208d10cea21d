"""Tests of answers of a model."""
