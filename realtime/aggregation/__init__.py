"""Windowed aggregations: rules that turn messages of one type into figures per window and group.

:mod:`~realtime.aggregation.rule` says what a rule is, :mod:`~realtime.aggregation.functions` what
is kept of a group's values, :mod:`~realtime.aggregation.windows` of which window and when it is
over, :mod:`~realtime.aggregation.processor` makes of these what reads a log, and
:mod:`~realtime.aggregation.definitions` knows which rules there are.
"""
