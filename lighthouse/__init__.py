"""The catalogue of provider endpoints: its own program; imports nothing from `phr`."""
