"""Anthropic's Messages API.

schemas.py       bodies, and how their fields are handled
management.py    the body's field for edits of the context; clearing.py: what they clear
conversation.py  blocks to the turns that chat templates read, and where breakpoints are among them
prepare.py       a body to a job, with the prefixes that its breakpoints keep
writer.py        pieces to events and to the whole message; usage.py: what was read from the cache, and written
routes.py        /v1/messages
"""
