"""Programs that talk to a server of ours as they talk to any other, unmodified, each in an environment of its own.

``table``: which there are. ``environments``: made on demand. ``scripts/``: what each does, feature by feature, in its
own environment. ``trial``: one of them against a server. ``page``: ``docs/clients.md``.
"""
