"""Pods of others: which containers run a Docker daemon, where its data lands, what that means, and the repair.

Pure functions on plain dicts: no I/O, and nothing is lost that these modules don't know. `places` finds pods in any
document, `detect` finds the programs in one pod, `repair` answers with an RFC 6902 patch, `guard` warns or refuses,
`render` writes pods of our own. `model` has the types that they share, `policy` what the administrator decides.

A pod here is what a Pod object is: `{"metadata": {...}, "spec": {...}}`. Pointers are tuples of keys and indexes.
"""
