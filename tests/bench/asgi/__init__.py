"""A peer that is a program of its own: nothing here imports anything of ours."""
