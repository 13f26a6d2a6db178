"""HTTP in and out: the OpenAI-compatible proxy. Knows the conductor only through its operations."""
