"""Helpers that two ops or more share."""
