"""What is measured, one file a kind. A scenario takes a trial and numbers, and returns figures for the results file."""
