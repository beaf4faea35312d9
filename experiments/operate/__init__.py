"""Commands for operators: serve, mode, rules, ledger, doctor, explain, link."""
