"""The commands, a file each: `run` parses the words of the command line and returns the exit status."""
