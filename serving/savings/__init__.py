"""The policy's savings per conversation, estimated from the ledger and the random hold-out."""
