"""How data goes out, and what may. `gate.release` is the only way a record leaves.

Not here: how a recipient's browser is answered (`phr.web.doors`), how a delivery runs (`phr.push`).
"""
