"""Predictors: code of applications that makes predictions of messages, and learns from them.

:mod:`~realtime.analytics.predictions.definition` has the decorator ``@realtime.predictor``,
:mod:`~realtime.analytics.predictions.processor` runs what it decorates as a processor
(:mod:`realtime.analytics.processing`), :mod:`~realtime.analytics.predictions.worker` in a thread of
its own.
"""
