"""What reads a type's log, makes something of it and publishes that: rules, predictors, notifiers.

:mod:`~realtime.analytics.processing.contract` says what a processor is,
:mod:`~realtime.analytics.processing.state` keeps what it must not lose, beside the log it publishes
to, and :mod:`~realtime.analytics.processing.runner` runs processors and shares them with other
processes.
"""
