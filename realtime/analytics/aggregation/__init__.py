"""Aggregation rules: figures per window and group, made of the messages of one type.

:mod:`~realtime.analytics.aggregation.rule` says what a rule is,
:mod:`~realtime.analytics.aggregation.definitions` which rules there are,
:mod:`~realtime.analytics.aggregation.columns` how values are read from messages,
:mod:`~realtime.analytics.aggregation.functions` how the figures of a group are computed,
:mod:`~realtime.analytics.aggregation.windows` which windows are open, and
:mod:`~realtime.analytics.aggregation.processor` puts these together.
"""
