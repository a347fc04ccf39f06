"""The layer above the machine: paths, files, devices, flags, logs. Imports nothing else of nanochat."""
