"""Processors: rules, predictors and notifiers that read a type's log and publish what they make.

:mod:`~realtime.analytics.processing.contract` says what a processor is,
:mod:`~realtime.analytics.processing.state` saves its state beside the log that it publishes to, and
:mod:`~realtime.analytics.processing.runner` runs processors and shares them with other processes.
"""
