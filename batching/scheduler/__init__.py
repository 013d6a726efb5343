"""The pure state machine: which rows ride together, when, and which request is refused. It is told the time; no asyncio."""
