"""The pure state machine: which rows share a batch, when, and which request is refused. It is told the time; no asyncio."""
