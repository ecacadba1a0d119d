"""The kinds of checkpoint that families have: one file each, a table of names that import and export read."""
