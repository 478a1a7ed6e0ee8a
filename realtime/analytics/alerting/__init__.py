"""Alert rules: when a value is out of bounds, who is told, and until when.

Pure: ``rule`` says what a rule is, ``incidents`` what a group of values goes through and how its
alerts are written. ``processor`` lets a rule read a type's log. ``ledger`` keeps in the database
which alerts there are and whom to tell, ``courier`` tells them, ``service`` runs it all.
"""
