"""The shelf: named directories that are born whole, locked while in use, referenced, and swept."""
