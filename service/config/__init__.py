"""Settings, the model config file, tokens, and what the process may use of the machine."""
