"""The machine as typed values: systemd, NVML, memory, processes, the journal. Thin, no policy; imports core only."""
