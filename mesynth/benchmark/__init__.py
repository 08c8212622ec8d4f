"""Generators side by side: the same people and requests, measured against exact rendered truth."""
