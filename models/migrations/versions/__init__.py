"""One file a migration, numbered; the number is the schema version."""
