"""Benchmarks: one question per file, this server and its peers side by side in the same run.

    python -m benchmarks.fanout       deliveries/s and CPU per delivery, 500 connections
    python -m benchmarks.latency      publish-to-receive p50, p99, p99.9 at a fixed rate
    python -m benchmarks.filters      what an event costs among 10, 1,000 and 10,000 filters
    python -m benchmarks.connections  handshakes/s and memory per idle connection
    python -m benchmarks.publish      messages/s into the system from one process
    python -m benchmarks.drain        5,000 clients whose server ends: their queue at the next one
    python -m benchmarks.scale        what workers, shards and processes cost

Each takes ``--quick``, ``--json`` and ``--peers a,b``; ``--install`` fetches the Node peers first.
Servers run on the first core, the load generator and the publisher on the second; runs of the
peers are interleaved and the table shows medians. A peer that is not installed is named as such.
Linux only.
"""
