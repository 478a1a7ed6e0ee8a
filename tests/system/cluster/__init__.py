"""Tests of more than one serving process."""
