"""How does one use an agent, or its sandbox, from a prompt, a chat client, MCP or smolagents?"""
