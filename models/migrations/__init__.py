"""The migrations: each only adds, so that an older file is upgraded in place and no row is ever rewritten."""
