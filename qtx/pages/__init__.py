"""This package makes what people are shown: tables, plots, and the HTML pages of comparisons and diagnoses."""
