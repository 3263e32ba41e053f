"""Results sent to people and programs: e-mail, chats, GitHub issues and comments, and the log of what was sent.

It may import the rooms up to `report`, which describes the messages.  Begin with `results` (what a notification is
about), then `sent_log` (who gets what); `issue_plan` and `issue_sync` keep issues.
"""
