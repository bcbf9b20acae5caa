"""The commands of ipcimg, a module each: add() adds its arguments to a parser, and what they ask for is run."""
