"""The archive: the record as lines of JSON, complete, to be kept or taken elsewhere (docs/transcripts.md)."""
