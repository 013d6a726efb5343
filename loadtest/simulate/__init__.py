"""Scheduling policies compared in virtual time, with the real queue and no server."""
