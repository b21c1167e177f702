"""What is shown: HTML, terminal, charts. Reads runs; imports no torch and no transformers."""
