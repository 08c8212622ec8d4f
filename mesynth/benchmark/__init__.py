"""The contest: any number of generators, the same people and requests, measured against exact rendered truth."""
