"""Request records: journal, keeper, database, energy accounts and savings estimates."""
