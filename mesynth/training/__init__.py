"""One training loop for every generator: data as pairs, tasks that know their losses, runs that resume exactly."""
