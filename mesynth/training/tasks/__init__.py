"""One module a generator family: its configuration, losses, optimisers, measures and sample sheet."""
