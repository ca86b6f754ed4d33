"""The handlers, one family of operators a file."""
