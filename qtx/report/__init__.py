"""What people are shown: tables, plots, and the HTML page of a comparison."""
