"""Making this host ready: distribution packages, subordinate ids, AppArmor's helper.

The steps are computed from facts about the host, and can be shown before anything is done. Nothing else is changed than
the steps say, and nothing at all where nothing is missing.
"""
