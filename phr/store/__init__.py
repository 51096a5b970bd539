"""Where it sleeps: one SQLCipher file per patient, and the house's own.

No other room knows SQLCipher.
"""
