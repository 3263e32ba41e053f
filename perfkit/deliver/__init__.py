"""Messages to servers: e-mail, GitHub, chat; what was told already, and what could not be sent yet."""
