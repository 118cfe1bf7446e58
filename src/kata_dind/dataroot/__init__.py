"""The needs of each kind of data root on the host and in the guest, as data, and the choice between the kinds. Pure."""
