"""Does everything break together and nothing get lost? A site of real processes under faults.

The faults and their moments are drawn from a seed. Afterwards what publishers were told, what
clients received and what was computed is compared with the log::

    python -m realtime.torture --seed 1 --minutes 10
"""
