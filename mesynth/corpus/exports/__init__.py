"""Exports: a corpus in the forms other code bases read, provenance beside every one of them, and back."""
