"""The proof that dockerd's storage works, and the Docker API calls that the proof makes."""
