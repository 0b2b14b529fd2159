"""The measures once more in plain Python: lists, loops and `math`, nothing of ours, so that the two can disagree."""
