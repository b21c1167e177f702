"""What is fed: text to token batches, the built-in corpus, the demo series."""
