"""A day of the whole shipped fleet in a few minutes: its model files with stand-ins of true size, what is asked of it,
what must hold when it is over, and a picture of who was on the card when.

The story runs beside the daemon, in a rig and in a virtual machine alike; it judges nothing itself.
"""
