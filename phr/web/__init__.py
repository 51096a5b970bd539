"""What people and doctors see: the two applications, their pages and doors. No SQL in here."""
