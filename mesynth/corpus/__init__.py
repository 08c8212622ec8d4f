"""Corpora: which clips to make (plan), on which faces, and making them."""
