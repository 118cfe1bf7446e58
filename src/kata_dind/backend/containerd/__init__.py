"""Sandboxes as pods of a host's containerd, through CRI: the calls that kubelet makes, for a handler of Kata's."""
