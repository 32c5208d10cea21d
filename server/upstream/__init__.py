"""MCP servers that we call for others: which, how they are reached, and the record of every call."""
