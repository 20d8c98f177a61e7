"""Interactive and network interfaces to an agent or its sandbox: terminal, chat API, MCP and smolagents."""
