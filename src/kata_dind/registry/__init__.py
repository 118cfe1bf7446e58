"""What images run, asked of their registries: entrypoint, command, user, environment, volumes. No layer is read.

`Lookup` is the way in: it asks only the registries that the policy names, for a few seconds at most, and remembers the
answers. What fails is a clause for a note on the pod, never an error. `client` speaks the OCI distribution protocol
over `transport`, which checks each address before it connects; `reach` holds the policy's rules, `keyring` finds
credentials as kubelet does, `docker_config` reads a user's own, `remote`, `content` and `challenge` parse, and `once`
remembers. It may be used by many threads. Nothing here prints.
"""
