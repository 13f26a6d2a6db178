"""`make demo`: the main job told by real parts. `fleet.py` says what is configured, `__main__.py` tells the story."""
