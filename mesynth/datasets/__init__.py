"""Databases of micro-expressions: one loader per release layout, all of them returning a manifest."""
