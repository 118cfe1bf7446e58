"""The owner of a running sandbox: readiness, sockets, status; the supervisor, its standby, and the early start."""
