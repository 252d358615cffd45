"""The servers that `peers` compares: one module each, with the client that speaks its protocol."""
