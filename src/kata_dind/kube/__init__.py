"""The Kubernetes API: how a cluster is reached, and requests to it; every failure is a KubernetesError.

Objects are plain dicts, as the server has them. `kubeconfig` reads files, `access` chooses a cluster and a user,
`credentials` says who we are, `connection` makes the TLS and the proxy, `resources` has the kinds of objects and their
paths, and `client` makes requests.
"""
