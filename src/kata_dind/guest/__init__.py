"""What runs inside the guest, and only there: shell steps and the agent, on the standard library alone."""
