"""Predictors: code of applications that makes predictions of messages, and learns from them.

:mod:`~realtime.predictions.definition` has the decorator ``@realtime.predictor``,
:mod:`~realtime.predictions.processor` runs what it decorates as a processor
(:mod:`realtime.processing`), :mod:`~realtime.predictions.worker` in a thread of its own.
"""
