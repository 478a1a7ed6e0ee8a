"""Runs aggregation rules with a clock that may be wrong; as a program, until stopped."""

from __future__ import annotations

import json
import sys
import time


def main() -> None:
    """Run the rules, each an object of its fields, with a clock that is so many seconds ahead."""
    import django

    django.setup()
    from realtime.analytics.aggregation.processor import AggregationProcessor
    from realtime.analytics.aggregation.rule import make_spec
    from realtime.analytics.processing.runner import Runner
    from realtime.management.processing import run_until_stopped

    rules = [make_spec(**fields) for fields in json.loads(sys.argv[1])]
    ahead, right_time = float(sys.argv[2]), time.time
    time.time = lambda: right_time() + ahead
    print("running", flush=True)
    run_until_stopped(Runner("rules", lambda: [AggregationProcessor(rule) for rule in rules]))


if __name__ == "__main__":
    main()
