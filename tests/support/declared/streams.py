"""Rules in code, for tests."""

import realtime

realtime.alert_rule("in_code", source="metrics", value="v", above=10, clear=5)
