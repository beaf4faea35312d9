"""Commands for operators: serve, mode, rules, ledger, doctor, explain and link."""
