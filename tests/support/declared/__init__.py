"""An app that has rules in its ``streams`` module."""
