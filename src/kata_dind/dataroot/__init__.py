"""What each kind of data root needs of a host or a guest, as data, and the choice between the kinds. Pure."""
