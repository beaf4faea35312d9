"""Records: the journal that workers write, the keeper, the database, joules and savings."""
