"""The requests of clients: chats, directives, tasks, and the features that a policy observes."""
