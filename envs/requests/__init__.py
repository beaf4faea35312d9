"""What a client asks: chats, directives, tasks, and the features that a policy sees."""
