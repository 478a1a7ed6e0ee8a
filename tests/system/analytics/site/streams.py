"""A rule of this app."""

import realtime

realtime.aggregation_rule(
    "in_code", size=10, time_path="at", functions=[{"name": "n", "function": "count"}]
)
