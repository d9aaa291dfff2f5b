"""How the SDK and the services call a service: channels, tokens, deadlines, retries, typed clients."""
