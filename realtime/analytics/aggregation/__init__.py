"""Aggregation rules: figures per window and group, made of the messages of one type.

``rule`` says what a rule is and ``definitions`` which there are, ``columns`` read values from
messages, ``functions`` make the figures of a group, ``cells`` keeps and stores what these are made
of, ``windows`` knows which windows are over, and ``processor`` puts these together.
"""
