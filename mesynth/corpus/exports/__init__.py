"""Exports: a corpus in the forms other code bases read, one module a form, provenance beside every one of them."""
