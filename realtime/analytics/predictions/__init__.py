"""Predictors: code of applications that predicts from messages, and may learn from them.

:mod:`~realtime.analytics.predictions.definitions` has the decorator ``@realtime.predictor``.
:mod:`~realtime.analytics.predictions.processor` feeds a predictor with messages, and
:mod:`~realtime.analytics.predictions.model` calls its code in a
:mod:`~realtime.analytics.predictions.thread` of its own.
"""
