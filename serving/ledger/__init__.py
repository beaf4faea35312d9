"""Request records: journal, keeper, database and energy accounts."""
