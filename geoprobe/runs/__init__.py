"""What is kept: readings, the run folder, export."""
