"""What is known of the quality of answers, as rows of the ledger."""
