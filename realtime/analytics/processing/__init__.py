"""Processors read a type's log and publish what they make: ``contract`` says what one is.

``state`` saves its state beside the log that it publishes to, ``runner`` runs and shares them.
"""
