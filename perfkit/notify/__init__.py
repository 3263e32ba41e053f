"""Results sent to people and pipelines: e-mail, chats, GitHub issues and pull-request comments.

It may import every room but `cli`.  Begin with `delivery`: what is sent, to whom, and once; `email` and `chat` are its
channels.  `github_plan` says what should stand on GitHub, and `github_sync` brings it there.
"""
