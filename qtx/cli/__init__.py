"""The command line: its commands and flags, their help, and what they print."""
