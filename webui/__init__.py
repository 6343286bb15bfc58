"""The page and the OpenAI API on one port. Knows where the engine is, not the YAML."""
