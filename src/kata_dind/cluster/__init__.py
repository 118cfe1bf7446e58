"""A cluster for dind pods: what it needs, as files for helm and kubectl, and how far a cluster has it.

`needs` knows Kata's versions, `plan` makes the files, `check` judges facts; all three are pure. `facts` reads a
cluster, and never writes to it.
"""
