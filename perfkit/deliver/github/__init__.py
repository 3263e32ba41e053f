"""GitHub: issues that follow worsenings, and the comment of a pull request."""
