"""`kata-dind fix`: manifests in files, on standard input or in a cluster, each pod in them examined and repaired.

`inputs` finds and opens files, `cluster` reads a cluster through kubectl, `around` finds what a pod depends on beside
it. `mend` asks the pod room about each pod, `reports` hold its answers, `formats` put them into text, and `replace`
writes a file back in one step. `policy_view` explains a policy, and `manifest_text` writes what
`render` makes. Memory stays flat: what is handed on is one document at a time. Nothing here prints.
"""
