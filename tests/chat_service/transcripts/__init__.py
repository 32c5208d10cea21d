"""Tests of the transcripts of other clients."""
