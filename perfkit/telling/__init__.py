"""Results told by e-mail and chat: to whom, what is new for each of them, and who got it."""
