"""Sandboxes as users know them: the handle, the functions that make and find one, planning, and a pure view."""
