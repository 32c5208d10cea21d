"""The floor that speaks to the world: MCP tools and resources, transports, the command line."""
