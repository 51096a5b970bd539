"""For machines and doctors, on the public address. A door asks the gate and decides nothing."""
