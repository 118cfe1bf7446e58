"""Making this host ready: distribution packages, subordinate ids, AppArmor's helper.

What is needed is computed from facts about the host and can be shown before anything is done. It changes nothing but
what it has shown, and nothing at all where nothing is missing.
"""
