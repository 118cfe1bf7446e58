"""The guest's one service on the `vm` backend; to us what kata-agent is to Kata.

The host imports `protocol` of this package and nothing else.
"""
