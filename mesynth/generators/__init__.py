"""Learned generators: networks, how they are conditioned, and pipelines that save, load and generate."""
