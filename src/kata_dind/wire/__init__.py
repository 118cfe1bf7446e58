"""What carries a guest's streams: the framed channel, and the client of a sandbox's own control socket."""
