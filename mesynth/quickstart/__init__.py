"""The whole road on embedded data, ending in one page."""
