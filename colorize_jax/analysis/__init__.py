"""What a network has learned: which patches its units answer, and which photos it finds alike."""
