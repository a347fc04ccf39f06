"""The recipes: `bash speedrun.sh` picks one (runs/__main__.py); `python -m runs.laptop --help` runs one by name."""
