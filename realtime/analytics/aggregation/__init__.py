"""Windowed aggregations: rules that turn messages of one type into figures per window and group.

:mod:`~realtime.analytics.aggregation.rule` says what a rule is,
:mod:`~realtime.analytics.aggregation.functions` what is kept of a group's values,
:mod:`~realtime.analytics.aggregation.windows` of which window and when it is over,
:mod:`~realtime.analytics.aggregation.processor` makes of these what reads a log, and
:mod:`~realtime.analytics.aggregation.definitions` knows which rules there are.
"""
