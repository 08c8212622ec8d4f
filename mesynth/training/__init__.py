"""One training loop for every generator: data as pairs, tasks that know their losses, runs that resume exactly.

One module a generator family: its configuration, losses, optimisers, measures and sample sheet."""
