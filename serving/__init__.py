"""The online hook in front of an OpenAI-compatible server."""
