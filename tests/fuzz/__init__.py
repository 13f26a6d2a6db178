"""Bytes that a fuzzer makes up, read by the proxy's edge and held against other readers. `make fuzz`."""
