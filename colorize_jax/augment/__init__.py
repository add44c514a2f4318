"""What pretext tasks do to photos on the accelerator: pure functions of keys and arrays."""
