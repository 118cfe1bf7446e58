"""The `vm` backend's QEMU: its arguments (pure), its QMP socket, its network, its file sharing, its accelerator."""
