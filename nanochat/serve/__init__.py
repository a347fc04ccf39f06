"""The web chat: OpenAI's wire format, the thread that owns the engine, the HTTP routes, and the page in ui/."""
