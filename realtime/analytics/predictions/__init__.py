"""Predictors: code of applications that predicts from messages, and may learn from them.

``definitions`` has the decorator ``@realtime.predictor``, ``processor`` feeds a predictor with
messages, and ``model`` calls its code in a thread of its own.
"""
