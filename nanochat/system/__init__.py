"""What the machine gives us: places, files, devices, flags, logs. Imports nothing else of nanochat."""
