"""The `vm` backend's QEMU: its arguments (pure), its control socket, its network, its file sharing, its accelerator."""
