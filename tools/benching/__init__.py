"""Measures ipcimg beside bare loops of the system calls that a dump or a restore cannot do without."""
