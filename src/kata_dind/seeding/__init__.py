"""Making, keeping and carrying seeds: snapshots of machines, taken when their dockerd was up and proven."""
