"""A trained ELM to talk to: in the browser, in the terminal, and as an OpenAI-compatible server."""
