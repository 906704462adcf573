"""What the command line and the recipes run."""
