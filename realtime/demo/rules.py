"""The demo's rules: figures of flights, and alerts on delays and wind, by the flights' own time.

Run by ``manage.py run_aggregations`` and ``manage.py run_alerts``, each with ``--module
realtime.demo.rules``.
"""

from __future__ import annotations

import realtime

HOUR = 3600
# The Bureau of Transportation Statistics counts a flight as late from 15 minutes on.
LATE_MINUTES = 15
DELAY = "payload.delay_minutes"

# The last hour, every ten minutes, of each of the three airports.
for name, kind in (("departures", "departure"), ("arrivals", "arrival")):
    realtime.aggregation_rule(
        name,
        filters={"event_type": kind},
        group_by=["payload.origin"],
        size=HOUR,
        slide=600,
        time_path="timestamp",
        functions=[
            {"name": "flights", "function": "count"},
            {"name": "mean_delay", "function": "avg", "path": DELAY},
            {"name": "p95_delay", "function": "p95", "path": DELAY},
            {"name": "max_delay", "function": "max", "path": DELAY},
        ],
    )

realtime.aggregation_rule(
    "late_departures",
    filters={"event_type": "departure", DELAY: {"gte": LATE_MINUTES}},
    group_by=["payload.carrier"],
    size=HOUR,
    time_path="timestamp",
    functions=[
        {"name": "flights", "function": "count"},
        {"name": "destinations", "function": "distinct", "path": "payload.dest"},
    ],
)

realtime.aggregation_rule(
    "cancellations",
    filters={"event_type": "cancellation"},
    group_by=["payload.origin"],
    size=3 * HOUR,
    time_path="timestamp",
    functions=[{"name": "flights", "function": "count"}],
)

for name, value, above, clear, severity in (
    ("late_flights", "values.p95_delay", 30, 20, "info"),
    ("long_delays", "values.mean_delay", 30, 20, "warning"),
    ("very_long_delays", "values.mean_delay", 60, 40, "critical"),
):
    realtime.alert_rule(
        name,
        source="aggregations",
        filters={"rule": "departures"},
        value=value,
        above=above,
        clear=clear,
        severity=severity,
        time="timestamp",
    )

realtime.alert_rule(
    "unusual_wind",
    source="metrics",
    filters={"name": "weather"},
    value="wind_mph",
    group_by=["airport"],
    deviation=3,
    samples=12,
    least=10,
    severity="warning",
    time="timestamp",
)
