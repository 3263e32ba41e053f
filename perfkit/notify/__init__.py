"""Results sent to people: e-mail, chat, GitHub issues and comments; what was sent, and what could not be sent yet.

It may import the rooms up to `report`, which makes the texts.  Begin with `sent_log`.
"""
