"""How fast is it here, and what limits it: ``python -m autol2.bench``."""
