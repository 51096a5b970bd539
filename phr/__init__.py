"""Homeport: a personal health record appliance that a household runs at home."""

__version__ = "0.1.0"
