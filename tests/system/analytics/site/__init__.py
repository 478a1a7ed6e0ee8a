"""An app that has rules in code."""
