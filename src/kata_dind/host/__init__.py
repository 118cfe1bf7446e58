"""The only code that touches processes, locks, namespaces and the host's files on behalf of the other rooms."""
