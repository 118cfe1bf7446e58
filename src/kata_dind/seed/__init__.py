"""Seeds: machines that were saved when their dockerd was up and proven, for sandboxes to go on from."""
