"""The D-Bus interface: objects over the operations that HTTP uses too. Nothing is decided here."""
