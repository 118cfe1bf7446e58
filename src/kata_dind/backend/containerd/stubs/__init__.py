"""The messages of CRI and of containerd's interface. Made by scripts/generate_cri.py.

github.com/containerd/containerd/api v1.12.0
k8s.io/cri-api v0.37.2
"""
