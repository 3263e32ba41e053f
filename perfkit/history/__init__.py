"""The history of a scenario: its runs in time order, what changed in it, and what is known of that."""
