"""Checks a running server against the tables of docs/protocol.md.

    python -m realtime.conformance ws://localhost:8765/ws/ --token rt_... \\
        --publish "python manage.py publish"

Needs ``websockets`` and nothing of Django: the server may be any. It only uses what a client can
see. What it publishes carries a mark of its own, so that a server in use can be checked too.
"""
