"""`kata-dind fix`: manifests in files, on standard input or in a cluster, each pod in them examined and repaired.

`inputs` finds and opens files, `cluster` reads a cluster through kubectl, `mend` asks the pod room about each pod,
`formats` put the answers into text, `replace` writes a file back in one step. Memory stays flat: what is handed on is
one document at a time. Nothing here prints.
"""
