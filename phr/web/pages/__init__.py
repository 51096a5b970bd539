"""Pages for people who sign in, one module per menu entry; each exports its ROUTES."""
