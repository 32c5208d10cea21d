"""Tests of what reaches other MCP servers."""
