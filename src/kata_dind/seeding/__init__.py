"""Making, keeping, carrying and cloning seeds: machines that were saved when their dockerd was up and proven."""
