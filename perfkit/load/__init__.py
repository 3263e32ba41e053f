"""Starting load: Locust processes, request recorder, load profiles, demo services."""
