"""Readers of the transcripts that other clients keep: each turns lines or JSON into the inputs of this house."""
