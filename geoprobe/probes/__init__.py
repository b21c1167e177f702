"""What a measure needs from a model: sites to watch, statistics to keep, readings to give."""
