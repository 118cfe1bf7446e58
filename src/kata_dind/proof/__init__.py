"""The proof that dockerd's storage works, and the calls of the Docker API that it makes."""
