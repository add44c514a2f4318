"""Features on disk, and what they are worth: probes."""
